"""One benchmark test as fresh processes: the command, and what their rows say.

A benchmark in a process of its own: what becomes of it is a result, whatever it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.records.codec import read_records
from harness.records.runs import RECORDS
from harness.records.schema import CheckRecord, MeasurementRecord, Record
from harness.records.verdicts import HUNG, of_reference

if TYPE_CHECKING:
    from harness.plugin.run import Session
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
    flag = session.verdict(subject).not_ranked
    outcome: CheckRecord | None = None
    for record in ended.records:
        if isinstance(record, MeasurementRecord):
            own = flag if record.role == "subject" else ""
            session.record(
                replace(record, run=session.run, test=test, flag="; ".join(filter(None, (own, record.flag))))
            )
        elif of_reference(record.check):
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


POLL = 0.05
"""Seconds between looks at the process: what grows by 10 GB/s is ended half a gigabyte late."""
SHARE = 0.9
"""Of the memory that is free at the start."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of a process."""

    records: tuple[Record, ...]
    """Rows that it had written, complete or not."""
    reason: str
    """Why it did not end by itself, or without a verdict; "" where it came to its end."""
    seconds: float


def run_isolated(command: Sequence[str], *, results: Path, timeout: float, memory: float, directory: Path) -> Ended:
    """Run ``command``, a pytest invocation that keeps its run under ``results``, in a process group of its own.

    It is ended when it takes longer than ``timeout`` seconds (0 for no limit) or more than ``memory`` bytes (0 for most
    of what is free): memory is limited here, by looking, so that the system's own killer, which may pick any process,
    never has to. Nothing is left running, however this returns.
    """
    limit = memory or SHARE * psutil.virtual_memory().available
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=directory, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        reason = ""
        try:
            while process.poll() is None:
                time.sleep(POLL)
                if timeout and time.monotonic() - began > timeout:
                    reason = f"{HUNG} ({timeout:g} s): stopped"
                elif (used := _resident(process.pid)) > limit:
                    reason = f"took {used / 1e9:.1f} GB, more than the {limit / 1e9:.1f} GB it may: out of memory"
                if reason:
                    break
        finally:
            _end(process)
        output.seek(0)
        said = output.read().decode("utf-8", "replace").splitlines()
    if not reason and process.returncode < 0:
        reason = f"the process died of {_signal(-process.returncode)}"
    elif not reason and process.returncode not in (0, 1):
        quoted = " | ".join(line.strip() for line in said if line.strip())[-300:] if said else "nothing"
        reason = f"the process ended with code {process.returncode}, and said: {quoted}"
    records = tuple(r for path in sorted(results.glob(f"*/{RECORDS}")) for r in read_records(path))
    return Ended(records=records, reason=reason, seconds=time.monotonic() - began)


def _resident(pid: int) -> int:
    """Bytes of memory of a process and its children."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole group, children that outlived their parent too."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name} (the system's answer to running out of memory, among others)" if name == "SIGKILL" else name
