"""One task as a process of the ordinary suites, its rows handed on as they are written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.process import fork_server
from harness.records.runs import RECORDS
from harness.sweep.tasks import Event, Task, TaskEnded, TaskRows

POLL = 0.2
"""Seconds between looks at the rows."""
REFUSED = (3, 4, 5)
"""pytest's exit codes for an internal error, a request without sense, and no test at all."""


def arguments(task: Task, options: Sequence[str], results: Path) -> list[str]:
    """What pytest is given for a task: ``options`` are the sweep's, without files and folders.

    Where architectures were chosen by glob, or from a library's list, the one of the task is named instead: a process
    need not list the whole of a library to run a part.
    """
    narrowed = task.leaves_rows and (task.suite == "zoo" or any(o.split("=")[0] == "--arch" for o in options))
    return [
        *("-p", "harness.sweep.pytest_plugin", "-p", "no:cacheprovider"),
        *(case.test for case in task.cases),
        *options,
        *([f"--arch={task.architecture}"] if narrowed else []),
        *([f"--process={task.repeat}"] if task.repeat else []),
        f"--results={results}",
    ]


def run(
    task: Task,
    options: Sequence[str],
    *,
    directory: Path,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    forked: bool = False,
) -> Iterator[Event]:
    """Run a task in ``directory``; yields its rows and, last, how it ended. Nothing is left running.

    ``timeout`` seconds are for the whole of it, on top of the ``--timeout`` that each test has. With ``forked`` the
    process comes from one that has imported the libraries (see `harness.process.fork_server`).
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        results, output = Path(folder) / "results", Path(folder) / "output"
        begin = _fork if forked else _spawn
        process = begin(arguments(task, options, results), output, directory, environment or {})
        end, reason, read = time.monotonic() + timeout, "", 0
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
                read, rows = _new_rows(results, read)
                if rows:
                    yield rows
                if time.monotonic() > end:
                    reason = f"did not come back within --task-timeout ({timeout:g} s): stopped"
                    break
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        _, rows = _new_rows(results, read)
        if rows:
            yield rows
        said = output.read_bytes().decode("utf-8", "replace") if output.exists() else ""
    if reason:
        yield TaskEnded(reason=reason)
    else:
        yield TaskEnded(reason=_reason(code, said), failed=code == 1, hopeless=code in REFUSED)


def _spawn(
    given: Sequence[str], output: Path, directory: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes] | fork_server.Forked:
    with output.open("wb") as written:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *given],
            cwd=directory,
            env={**os.environ, **environment},
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _fork(
    given: Sequence[str], output: Path, directory: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes] | fork_server.Forked:
    try:
        return fork_server.start(given, output, directory, environment)
    except OSError:  # no fork on this system, or no memory for a server: an ordinary process will say what is wrong
        return _spawn(given, output, directory, environment)


def _new_rows(results: Path, read: int) -> tuple[int, TaskRows | None]:
    """Whole lines that were written since ``read`` bytes."""
    for path in results.glob(f"*/{RECORDS}"):
        with path.open("rb") as file:
            file.seek(read)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        if whole:
            return read + len(whole), TaskRows(lines=tuple(whole.decode().splitlines()))
    return read, None


def _reason(code: int, said: str) -> str:
    if code in (0, 1):
        return ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        more = " (the system's answer to running out of memory, among others)" if name == "SIGKILL" else ""
        return f"the process died of {name}{more}"
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return f"the process ended with code {code}: {' | '.join(errors or lines[-3:])[-400:] or 'it said nothing'}"
