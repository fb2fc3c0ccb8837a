"""What one invocation asks for: who is judged, where, how thoroughly, and what is measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import RequestError
from harness.measure.setting import Setting, matrix
from harness.plugin.options import MeasurementOptions
from harness.process.hardware import SEEDS, device_named
from harness.subjects.facts import Family
from harness.subjects.loading import check_patterns, families, given_subjects, known_names, own_subjects
from harness.subjects.subject import Subject, label_of

if TYPE_CHECKING:
    import pytest

FEW = 2
"""A subject that offers at most this many architectures of a family has each judged in full, large ones too."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options that an invocation was given. Nothing heavy is imported before they are validated."""

    specs: tuple[str, ...]
    """Files and modules with subjects; empty for the suites' own."""
    patterns: tuple[str, ...]
    """Names and globs of architectures."""
    device: str
    results: Path
    budget: float
    """Seconds for the rounds of each benchmark."""
    seed: int
    compile_backend: str
    pretrained: bool
    measurement: MeasurementOptions = field(default_factory=MeasurementOptions)
    paths: tuple[str, ...] = ()
    """Files, folders and ids that pytest was given."""

    @classmethod
    def of(cls, config: pytest.Config) -> Request:
        """As given on the command line, not yet validated."""
        device = config.getoption("--device")
        listing = config.option.collectonly and not config.getoption("--subject")  # needs no torch
        return cls(
            specs=tuple(config.getoption("--subject")),
            patterns=tuple(p.strip() for p in config.getoption("--arch").split(",") if p.strip()),
            device="cpu" if listing and device == "auto" else device,
            results=Path(config.getoption("--results")),
            budget=config.getoption("--budget"),
            seed=config.getoption("--seed"),
            compile_backend=config.getoption("--compile-backend"),
            pretrained=config.getoption("--weights") == "imagenet",
            measurement=MeasurementOptions.of(config),
            paths=tuple(str(a) for a in config.args),
        )

    def validated(self) -> Request:
        """The same with the device that ``auto`` stands for. Raises RequestError where the request makes no sense."""
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
        device = self.device if self.device == "cpu" else device_named(self.device)
        self.measurement.validate_for(device)
        return replace(self, device=device)

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
