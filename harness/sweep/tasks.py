"""The unit of a sweep, and the events of a task on its way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

CONFORMANCE = "conformance"
"""The configuration of tasks that measure nothing."""
OWN = "own tests"
"""Stands for the subject of tests that are about a suite's own code and leave no row."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test, and the row that it leaves."""

    test: str
    """Its id, as pytest takes it."""
    check: str
    """Name of the check in its row."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process runs on one worker."""

    suite: str
    subject: str
    """Label of the implementation."""
    architecture: str
    configuration: str = CONFORMANCE
    """Else the setting that is measured: ``infer-b8-bfloat16``."""
    repeat: int = 0
    """Counts the processes that measure the same afresh."""
    cases: tuple[Case, ...]
    parameters: int = 0
    """Published number, where it is known; for the estimate."""

    @property
    def key(self) -> str:
        """Unique in a sweep, and the same on every start."""
        again = f"#{self.repeat}" if self.repeat else ""
        return f"{self.suite}/{self.subject}:{self.architecture}-{self.configuration}{again}"

    @property
    def owner(self) -> str:
        """The implementation of the architecture, as a failure is kept for it."""
        return f"{self.subject}:{self.architecture}"

    @property
    def measures(self) -> bool:
        """Whether it is a benchmark, which wants to know what failed before."""
        return self.configuration != CONFORMANCE

    @property
    def leaves_rows(self) -> bool:
        """Whether each of its tests leaves a row."""
        return self.subject != OWN

    def without(self, done: Iterable[str]) -> Task:
        """The same with the tests in ``done`` left out."""
        gone = frozenset(done)
        return replace(self, cases=tuple(c for c in self.cases if c.test not in gone))


def to_json(tasks: Iterable[Task], arguments: Iterable[str]) -> str:
    """The plan as it is kept beside the records, so that a sweep can be gone on with."""
    return json.dumps({"arguments": list(arguments), "tasks": [asdict(t) for t in tasks]}, indent=1) + "\n"


def task_from(row: Mapping[str, Any]) -> Task:
    """The inverse of ``asdict``."""
    return Task(**{**row, "cases": tuple(Case(**c) for c in row["cases"])})


def read_plan(path: Path) -> tuple[tuple[Task, ...], tuple[str, ...]]:
    """Tasks and arguments that `to_json` wrote. Raises OSError or ValueError."""
    plan = json.loads(path.read_text())
    return tuple(task_from(t) for t in plan["tasks"]), tuple(plan["arguments"])


@dataclass(frozen=True, kw_only=True)
class Started:
    """A worker has taken it."""

    placement: Mapping[str, Any] = field(default_factory=dict)
    """Node, devices, cores: see `harness.sweep.placement`."""


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """Lines of its ``records.jsonl``, as they were written."""

    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TaskEnded:
    """Its process is over."""

    reason: str = ""
    """Why it came to no verdict; empty where it did."""
    failed: bool = False
    """A test failed, which for most tests a row says too."""
    hopeless: bool = False
    """pytest refused the request: no part of it would do better."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Its worker or node is gone."""

    reason: str


Event = Started | TaskRows | TaskEnded | Lost
