"""One benchmark test as fresh processes: the command, and what their rows say."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.isolate import Ended, run_isolated
from harness.records.schema import CheckRecord, MeasurementRecord

if TYPE_CHECKING:
    from harness.session import Session
    from harness.subjects.subject import Subject


class ProcessEndedError(RuntimeError):
    """A benchmark's process crashed, hung or took too much memory; the message says who and why."""


def measurer(request: pytest.FixtureRequest, session: Session, subject: Subject) -> Callable[..., None]:
    """What the fixture `measure` is under ``--isolate``: the same test, run in processes of their own."""
    timeout = request.config.getoption("timeout") or request.config.getini("timeout") or 0

    def run(what: str, *, batch_size: int | None = None, share: float = 1.0) -> None:
        __tracebackhide__ = True
        try:
            skipped = measure_apart(request.node, session, subject, timeout=float(timeout))
        except AssertionError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        if skipped:
            pytest.skip(skipped)

    return run


def measure_apart(item: pytest.Item, session: Session, subject: Subject, *, timeout: float) -> str:
    """Run the benchmark ``item`` in as many processes as asked for, and keep the measurements of all of them.

    Gives the reason for which it was skipped there, "" where it was measured. Raises ProcessEndedError where a process
    died (the remaining ones are not started), AssertionError with its message where the benchmark failed in it.
    """
    skipped = ""
    for process in range(session.measurement.repeats):
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            ended = run_isolated(
                _command(item, session, process, Path(folder)),
                results=Path(folder),
                timeout=timeout,
                memory=session.measurement.memory_limit * 1e9,
                directory=item.config.rootpath,
            )
            skipped = _keep(ended, session, subject, item.nodeid, process) or skipped
    return skipped


def _command(item: pytest.Item, session: Session, process: int, folder: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pytest",
        f"{item.path}::{item.name}",
        f"--rootdir={item.config.rootpath}",
        *("-p", "no:cacheprovider", "-q", "--benchmark", "--timeout=0"),
        *(f"--subject={spec}" for spec in session.specs),
        *([f"--arch={','.join(session.patterns)}"] if session.patterns else []),
        f"--device={session.device}",
        f"--budget={session.budget!r}",
        f"--seed={session.seed}",
        f"--results={folder}",
        f"--process={process}",
        *session.measurement.arguments(),
    ]


def _keep(ended: Ended, session: Session, subject: Subject, test: str, process: int) -> str:
    """Take over the rows; see `measure_apart` for what is returned and raised."""
    flag = session.flag(subject)
    outcome: CheckRecord | None = None
    for record in ended.records:
        if isinstance(record, MeasurementRecord):
            own = flag if record.role == "subject" else ""
            session.record(
                replace(record, run=session.run, test=test, flag="; ".join(filter(None, (own, record.flag))))
            )
        elif record.check.startswith("measured_against"):
            if not process:
                session.record(replace(record, run=session.run, test=test))
        else:
            outcome = record
    where = f"{subject.who}, process {process + 1} of {session.measurement.repeats}"
    if ended.reason:
        raise ProcessEndedError(f"{where}: {ended.reason}")
    if outcome is None:
        raise ProcessEndedError(f"{where}: the process ended without a verdict")
    if outcome.outcome == "skipped":
        return outcome.message
    if outcome.outcome != "passed":
        raise AssertionError(outcome.message)
    return ""
