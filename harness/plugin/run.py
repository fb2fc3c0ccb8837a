"""What one invocation holds beside its request: the run's store and rows, the bench in use."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import RequestError, RunError, StoreError
from harness.plugin.request import Request
from harness.records.codec import read_records
from harness.records.run_store import RunStore, new_run_id
from harness.records.runs import RECORDS, Place, resolve
from harness.records.schema import CheckRecord, Record
from harness.records.verdicts import Verdict, Verdicts, of_reference
from harness.subjects.subject import Subject

if TYPE_CHECKING:
    from harness.bench.bench import Bench
    from harness.measure.benchmark import Measuring
    from harness.plugin.terminal import Terminal


@dataclass(kw_only=True)
class Run:
    """State of one invocation. Nothing heavy is imported before a subject is used."""

    request: Request
    id: str = field(default_factory=new_run_id)
    """The name of its folder."""
    results: Path = field(init=False)
    """The folder that the run's own folder is in."""
    done: frozenset[str] = frozenset()
    """Ids of the tests that the run to resume has rows of."""
    store: RunStore | None = None
    records: list[Record] = field(default_factory=list)
    verdicts: Verdicts = field(default_factory=Verdicts)
    store_error: str = ""
    outbox: list[Record] | None = None
    """In a worker process: rows on their way to the controller, which keeps them."""
    _bench: Bench | None = None
    _measuring: Measuring | None = None
    _environment: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.results = self.request.results

    def bench(self, subject: Subject) -> Bench:
        """The bench for ``subject``; the one before is cleared, since models are large."""
        from harness.bench.bench import Bench

        if self._bench is None or self._bench.subject != subject:
            if self._bench is None:
                gc.freeze()  # no garbage is looked for any more among the modules imported by now
            else:
                self._bench.close()
            request = self.request
            self._bench = Bench(
                subject, seed=request.seed, device=request.device, compile_backend=request.compile_backend
            )
        return self._bench

    def measuring(self, terminal: Terminal | None) -> Measuring:
        """What the benchmarks share; the machine's matmul peak is measured once."""
        import torch

        from harness.measure.benchmark import Measuring, silent
        from harness.plugin.terminal import TerminalProgress

        if self._measuring is None:
            self._measuring = Measuring(
                run=self.id,
                device=torch.device(self.request.device),
                budget=self.request.budget,
                record=self.record,
                precision=self.request.measurement.precision,
                flush=self.request.measurement.flush_l2,
                process=self.request.measurement.process,
                progress=TerminalProgress(terminal) if terminal is not None else silent,
            )
        return self._measuring

    def open_store(self) -> None:
        """Make the run's folder and write the environment. Raises StoreError."""
        from harness.records.environment import continued, environment

        self.store = RunStore(self.results, self.id, resume=bool(self.request.measurement.resume))
        self._environment = environment(sys.argv, self.request.device)
        if self.request.measurement.resume:
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

    def resume(self) -> None:
        """Take over the id, folder and outcomes of ``--resume``'s run. Raises RequestError where it isn't one."""
        run = self.request.measurement.resume
        if not run or self.outbox is not None:
            return
        try:
            folder = resolve(run, self.results)
        except RunError:
            known = ", ".join(place.name for place in Place(self.results).runs()[-5:]) or "none"
            raise RequestError(f"--resume {run}: no such run in {self.results}; newest there: {known}") from None
        try:
            records = read_records(folder / RECORDS)
        except RunError as error:
            raise RequestError(f"--resume {run}: {error}") from None
        self.results, self.id = folder.parent, folder.name
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


RUN = pytest.StashKey[Run]()
