"""``--isolate``: a benchmark in processes of its own; what becomes of them is a result, whatever it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.plugin.options import repeated_options
from harness.process.runner import PYTEST, end_of, run_process
from harness.records.codec import read_records
from harness.records.runs import RECORDS
from harness.records.schema import CheckRecord, MeasurementRecord, Record
from harness.records.verdicts import of_reference

if TYPE_CHECKING:
    from harness.plugin.run import Run
    from harness.subjects.subject import Subject

SHARE = 0.9
"""Of the memory that is free when a process starts, where ``--memory-limit`` sets no other limit."""


class ProcessEndedError(RuntimeError):
    """A benchmark's process crashed, hung or took too much memory; the message says who and why."""


def measurer(request: pytest.FixtureRequest, run: Run, subject: Subject) -> Callable[..., None]:
    """What the fixture `measure` is under ``--isolate``: the same test, run in processes of their own."""
    timeout = request.config.getoption("timeout") or request.config.getini("timeout") or 0

    def isolated(what: str, *, batch_size: int | None = None, share: float = 1.0) -> None:
        __tracebackhide__ = True
        try:
            skipped = measure_apart(request.node, run, subject, timeout=float(timeout))
        except AssertionError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        if skipped:
            pytest.skip(skipped)

    return isolated


def measure_apart(item: pytest.Item, run: Run, subject: Subject, *, timeout: float) -> str:
    """Run the benchmark ``item`` in as many processes as asked for, and keep the measurements of all of them.

    ``timeout`` is in seconds, 0 for no limit. Gives the reason for which the benchmark was skipped there, "" where it
    was measured. Raises ProcessEndedError where a process died (the remaining ones are not started), AssertionError
    with its message where the benchmark failed in it.
    """
    skipped = ""
    limit = run.request.measurement.memory_limit * 1e9
    for process in range(run.request.measurement.repeats):
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            ended = end_of(
                run_process(
                    _command(item, process, folder),
                    directory=item.config.invocation_params.dir,
                    timeout=timeout,
                    memory=limit or SHARE * psutil.virtual_memory().available,
                )
            )
            records = [r for path in sorted(Path(folder).glob(f"*/{RECORDS}")) for r in read_records(path)]
        skipped = _keep(records, ended.reason, run, subject, item.nodeid, process) or skipped
    return skipped


def _command(item: pytest.Item, process: int, folder: str) -> list[str]:
    return [
        *PYTEST,
        f"{item.path}::{item.name}",
        f"--rootdir={item.config.rootpath}",
        *("-p", "no:cacheprovider", "-q", "--timeout=0"),
        *repeated_options(item.config, benchmark=True),
        f"--results={folder}",
        f"--process={process}",
    ]


def _keep(records: Iterable[Record], reason: str, run: Run, subject: Subject, test: str, process: int) -> str:
    """Take over a process's rows; ``reason`` says why it came to no end of its own.

    See `measure_apart` for what is returned and raised.
    """
    flag = run.verdict(subject).not_ranked
    outcome: CheckRecord | None = None
    for record in records:
        if isinstance(record, MeasurementRecord):
            own = flag if record.role == "subject" else ""
            run.record(replace(record, run=run.id, test=test, flag="; ".join(filter(None, (own, record.flag)))))
        elif of_reference(record.check):
            if not process:
                run.record(replace(record, run=run.id, test=test))
        else:
            outcome = record
    where = f"{subject.who}, process {process + 1} of {run.request.measurement.repeats}"
    if reason:
        raise ProcessEndedError(f"{where}: {reason}")
    if outcome is None:
        raise ProcessEndedError(f"{where}: the process ended without a verdict")
    if outcome.outcome == "skipped":
        return outcome.message
    if outcome.outcome != "passed":
        raise AssertionError(outcome.message)
    return ""
