"""What one invocation holds: the request, the run's store and rows, the bench in use."""

from __future__ import annotations

import gc
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import RequestError, RunError, StoreError
from harness.measure.setting import Setting, matrix
from harness.plugin.options import MeasurementOptions
from harness.process.hardware import SEEDS, device_named
from harness.records.codec import read_records
from harness.records.run_store import RunStore, new_run_id
from harness.records.runs import RECORDS, Place, resolve
from harness.records.schema import CheckRecord, Record
from harness.records.verdicts import Verdict, Verdicts, of_reference
from harness.subjects.facts import Family
from harness.subjects.loading import check_patterns, families, given_subjects, known_names, own_subjects
from harness.subjects.subject import Subject, label_of

if TYPE_CHECKING:
    from harness.bench.bench import Bench
    from harness.measure.benchmark import Measuring
    from harness.plugin.terminal import Terminal


FEW = 2
"""A subject that offers at most this many architectures of a family has each judged in full, large ones too."""


@dataclass(kw_only=True)
class Session:
    """State of one invocation. Nothing heavy is imported before a subject is used."""

    specs: tuple[str, ...]
    patterns: tuple[str, ...]
    device: str
    results: Path
    budget: float
    seed: int
    compile_backend: str
    pretrained: bool
    measurement: MeasurementOptions = field(default_factory=MeasurementOptions)
    done: frozenset[str] = frozenset()
    """Ids of the tests that the run to resume has rows of."""
    paths: tuple[str, ...] = ()
    """Files, folders and ids that pytest was given."""
    run: str = field(default_factory=new_run_id)
    store: RunStore | None = None
    records: list[Record] = field(default_factory=list)
    verdicts: Verdicts = field(default_factory=Verdicts)
    store_error: str = ""
    outbox: list[Record] | None = None
    """In a worker process: rows on their way to the controller, which keeps them."""
    _bench: Bench | None = None
    _measuring: Measuring | None = None
    _environment: dict[str, Any] = field(default_factory=dict)

    def validate(self) -> None:
        """Raise RequestError where the request makes no sense."""
        check_patterns(self.patterns, self.families, self.specs)
        if not 0 <= self.seed < SEEDS:
            raise RequestError(f"--seed {self.seed}: expected a whole number from 0 to {SEEDS - 1:,}")
        self._check_backend()
        if not 0 < self.budget < math.inf:
            raise RequestError(f"--budget {self.budget:g}: expected a positive number of seconds")
        for spec in self.specs:
            if not any(given_subjects(spec, f, ()) for f in self.families):
                known = known_names(self.families)
                raise RequestError(f"--subject {spec}: has no callable named after an architecture; known: {known}")
        self.measurement.validate()
        if self.device != "cpu":
            self.device = device_named(self.device)
        self.measurement.validate_for(self.device)
        if self.measurement.resume and self.outbox is None:
            self._resume(self.measurement.resume)

    def _check_backend(self) -> None:
        if self.compile_backend == "aot_eager":  # the default: no need of torch to know it
            return
        import torch._dynamo

        known = torch._dynamo.list_backends(exclude_tags=())
        if self.compile_backend not in known:
            raise RequestError(f"--compile-backend {self.compile_backend}: torch has {', '.join(sorted(known))}")

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """All suites' families."""
        return families()

    def subjects(self, family: Family, members: Sequence[str] = ()) -> list[Subject]:
        """The implementations of ``family`` that this invocation judges.

        ``members`` are the architectures of a test that is run for these where nobody chose any.
        """
        if family.listing is not None and not self._asks_for(family):
            return []
        if not self.specs:
            everything = self.device.startswith("cuda")  # a GPU has time for every member
            return own_subjects(family, self.patterns or (() if everything else tuple(members)), everything=everything)
        stems = Counter(label_of(spec) for spec in dict.fromkeys(self.specs))
        return [
            found
            for spec in dict.fromkeys(self.specs)
            for found in given_subjects(spec, family, self.patterns, spec if stems[label_of(spec)] > 1 else None)
        ]

    def _asks_for(self, family: Family) -> bool:
        """Whether an open family's folder is named, or everything is asked for."""
        named = (Path(path.split("::")[0].replace(".", "/")).resolve().parts for path in self.paths)
        folders = (pair for parts in named for pair in pairwise(parts))
        return "*" in self.patterns or ("suites", family.name) in folders

    def setting(self, what: str, batch_size: int | None = None) -> Setting:
        """The setting with that id, or else the plain one of the mode ``what``."""
        found = self.measurement.settings.get(what) if batch_size is None else None
        return found or matrix(modes=what, batch_sizes=str(batch_size or ""))[0]

    def in_depth(self, subject: Subject, among: Sequence[Subject]) -> bool:
        """Whether every check is run: always, but for large architectures that nobody singled out."""
        if not subject.architecture.large or self.patterns:
            return True
        return bool(self.specs) and sum(s.label == subject.label for s in among) <= FEW

    def bench(self, subject: Subject) -> Bench:
        """The bench for ``subject``; the one before is cleared, since models are large."""
        from harness.bench.bench import Bench

        if self._bench is None or self._bench.subject != subject:
            if self._bench is None:
                gc.freeze()  # no garbage is looked for any more among the modules imported by now
            else:
                self._bench.close()
            self._bench = Bench(subject, seed=self.seed, device=self.device, compile_backend=self.compile_backend)
        return self._bench

    def measuring(self, terminal: Terminal | None) -> Measuring:
        """What the benchmarks share; the machine's matmul peak is measured once."""
        import torch

        from harness.measure.benchmark import Measuring, silent
        from harness.plugin.terminal import TerminalProgress

        if self._measuring is None:
            self._measuring = Measuring(
                run=self.run,
                device=torch.device(self.device),
                budget=self.budget,
                record=self.record,
                precision=self.measurement.precision,
                flush=self.measurement.flush_l2,
                process=self.measurement.process,
                progress=TerminalProgress(terminal) if terminal is not None else silent,
            )
        return self._measuring

    def open_store(self) -> None:
        """Make the run's folder and write the environment. Raises StoreError."""
        from harness.records.environment import continued, environment

        self.store = RunStore(self.results, self.run, resume=bool(self.measurement.resume))
        self._environment = environment(sys.argv, self.device)
        if self.measurement.resume:
            self._environment = continued(self.store.folder, self._environment)
        self.store.environment(self._environment)

    def close_store(self) -> None:
        """Say that the run came to its end; a run that was killed never says so."""
        if self.store is not None:
            finished = datetime.now(UTC).isoformat(timespec="seconds")
            try:
                self.store.environment({**self._environment, "finished": finished})
            except StoreError as error:
                self.store_error = str(error)
            self.store.close()

    def _resume(self, run: str) -> None:
        """Take over an earlier run's id, folder and outcomes. Raises RequestError where it isn't one."""
        try:
            folder = resolve(run, self.results)
        except RunError:
            known = ", ".join(place.name for place in Place(self.results).runs()[-5:]) or "none"
            raise RequestError(f"--resume {run}: no such run in {self.results}; newest there: {known}") from None
        try:
            records = read_records(folder / RECORDS)
        except RunError as error:
            raise RequestError(f"--resume {run}: {error}") from None
        self.results, self.run = folder.parent, folder.name
        for record in records:
            self._note(record)
        self.done = frozenset(r.test for r in records if isinstance(r, CheckRecord) and not of_reference(r.check))

    def record(self, record: Record) -> None:
        """Keep a row, in memory and in the store. A full disk is said once and ends nothing."""
        self._note(record)
        if self.outbox is not None:
            self.outbox.append(record)
        elif self.store is not None:
            try:
                self.store.append(record)
            except StoreError as error:
                self.store_error = str(error)

    def _note(self, record: Record) -> None:
        """Remember a row, and what it says of its subject."""
        self.records.append(record)
        self.verdicts.add(record)

    def verdict(self, subject: Subject) -> Verdict:
        """What the subject's rows have come to by now."""
        return self.verdicts.of(subject.family.name, subject.architecture.name, subject.label)


SESSION = pytest.StashKey[Session]()
