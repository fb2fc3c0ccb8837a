"""Conformance over several processes: pytest-xdist's workers judge, and the controller alone keeps the rows.

A row travels from a worker on the report of the test that it tells of. Benchmarks are never divided so: they take
turns on a machine that does nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import RequestError, StoreError
from harness.plugin.options import command_of
from harness.records.codec import decoded, line_of, record_from, to_row
from harness.records.schema import CheckRecord, Record
from harness.subjects.subject import Subject

if TYPE_CHECKING:
    from harness.plugin.run import Run

CRASHED = "???"
"""``when`` of the report that pytest-xdist makes for a worker that died."""


def asked(config: pytest.Config) -> int:
    """Worker processes that ``-n`` asks for; 0 without it, and in a worker."""
    return 0 if is_worker(config) else len(config.getoption("tx", None) or ())


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one that a controller started."""
    return hasattr(config, "workerinput")


def begin(config: pytest.Config, run: Run) -> None:
    """Take part where ``-n`` was given, as controller or as worker. Raises RequestError for benchmarks."""
    if is_worker(config):
        given: Mapping[str, Any] = config.workerinput["conformance"]  # type: ignore[attr-defined]
        run.id, run.done, run.outbox = given["run"], frozenset(given["done"]), []
    elif count := asked(config):
        if config.getoption("--benchmark"):
            raise RequestError(f"--benchmark -n {count}: what is measured side by side is disturbed; leave out -n")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))  # the workers inherit it
        config.pluginmanager.register(Controller(config, run), "conformance-controller")


class Controller:
    """The hooks of the process that hands out tests and keeps rows."""

    def __init__(self, config: pytest.Config, run: Run) -> None:
        self.config, self.run = config, run

    def pytest_configure_node(self, node: Any) -> None:
        """Every worker writes rows of the same run."""
        node.workerinput["conformance"] = {"run": self.run.id, "done": sorted(self.run.done)}

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Neighbouring tests stay together, since a subject's share its models, until a worker is idle."""
        if config.getoption("dist") != "load":  # as `-n` alone sets it
            return None
        from xdist.scheduler import WorkStealingScheduling

        return WorkStealingScheduling(config, log)

    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Open the run's folder before the first test where any will be recorded."""
        if self.run.store is None and any(_family_in(self.run, i) for i in ids):
            try:
                self.run.open_store()
            except StoreError as error:
                pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the rows that came with the report, and one that tells of a worker that died."""
        for row in unpacked(getattr(report, "rows", ())):
            self.run.record(row)
        if report.when == CRASHED and (subject := _subject_in(self.run, report.nodeid)):
            self.run.record(
                CheckRecord(
                    run=self.run.id,
                    suite=subject.family.name,
                    architecture=subject.architecture.name,
                    subject=subject.label,
                    check=report.nodeid.rpartition(f"[{subject.id}-")[2].rstrip("]") or report.nodeid,
                    outcome="error",
                    message=f"{subject.who}: the process that ran this check on it died",
                    reproduce=command_of(self.config, report.nodeid, benchmark=False),
                    test=report.nodeid,
                    seconds=0.0,
                )
            )


def packed(rows: Iterable[Record]) -> list[str]:
    """As text, which a report can carry from one process to another."""
    return [line_of(to_row(row)) for row in rows]


def unpacked(lines: Iterable[str]) -> list[Record]:
    """What `packed` was given."""
    return [record_from(decoded(line)) for line in lines]


def _family_in(run: Run, test: str) -> Any:
    folder = Path(test.split("::")[0]).parent
    return next((f for f in run.request.families if folder.parts[-2:] == ("suites", f.name) and "[" in test), None)


def _subject_in(run: Run, test: str) -> Subject | None:
    family = _family_in(run, test)
    inside = test.partition("[")[2]
    found = [s for s in run.request.subjects(family) if inside.startswith(s.id)] if family else []
    return max(found, key=lambda s: len(s.id), default=None)
