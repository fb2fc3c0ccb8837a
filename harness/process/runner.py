"""Runs a command as a process that can be ended with everything it has started, and says how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.process import fork_server

PYTEST = (sys.executable, "-m", "pytest")
"""How a command that runs pytest begins."""
FINISHED = (0, 1)
"""pytest's exit codes when it ran the tests: all passed, or some failed."""
LOOK, LOOK_AT_MEMORY = 0.2, 0.05
"""Seconds between looks at a process. One that grows by 10 GB/s is ended half a gigabyte late."""
QUOTED = 400
"""At most so many characters of the output are in a reason."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended."""

    code: int
    """Its exit code; negative for a signal."""
    reason: str
    """Why it was ended, or died, or why its code is none of those expected; "" where all is well."""
    output: str
    """What it printed, errors among it."""


def run_process(
    command: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str] | None = None,
    timeout: float = 0.0,
    limit: str = "--timeout",
    memory: float = 0.0,
    codes: Collection[int] = FINISHED,
    forked: bool = False,
) -> Generator[Ended | None, None, None]:
    """Run ``command`` in ``directory``, in a process group of its own, with ``environment`` added to this process's.

    Gives None at every look while the process lives, so that the caller can read what it has written; last, how it
    ended. It is ended when it takes longer than ``timeout`` seconds (``limit`` is the option that sets them) or more
    than ``memory`` bytes with its children; 0 stands for no limit. Memory is limited by looking, so that the system's
    own killer, which may pick any process, never has to. Nothing is left running, also where the caller stops early.

    With ``forked`` a command that begins with `PYTEST` comes from a process that has imported the libraries already
    (see `harness.process.fork_server`), where such a process can be had.
    """
    with tempfile.NamedTemporaryFile(prefix="conformance-") as file:
        output = Path(file.name)
        process = (_forked if forked else _started)(command, output, directory, environment or {})
        end, reason = time.monotonic() + timeout, ""
        try:
            while process.poll() is None and not reason:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_AT_MEMORY if memory else LOOK)
                yield None
                if timeout and time.monotonic() > end:
                    reason = f"did not come back within {limit} ({timeout:g} s): stopped"
                elif memory and (used := _resident(process.pid)) > memory:
                    reason = f"took {used / 1e9:.1f} GB, more than the {memory / 1e9:.1f} GB it may: out of memory"
        finally:
            with suppress(ProcessLookupError, PermissionError):  # children that outlived their parent are ended too
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        said = output.read_bytes().decode("utf-8", "replace")
    yield Ended(code=code, reason=reason or ("" if code in codes else _explained(code, said)), output=said)


def end_of(process: Iterable[Ended | None]) -> Ended:
    """How a process of `run_process` ended, for callers that need not look at it before."""
    *_, ended = process
    assert ended is not None
    return ended


def _started(
    command: Sequence[str], output: Path, directory: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes] | fork_server.Forked:
    with output.open("wb") as written:
        return subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **environment},
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _forked(
    command: Sequence[str], output: Path, directory: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes] | fork_server.Forked:
    assert tuple(command[: len(PYTEST)]) == PYTEST, f"only pytest can be forked, not {command}"
    try:
        return fork_server.start(command[len(PYTEST) :], output, directory, environment)
    except OSError:  # no fork on this system, or no memory for a server: an ordinary process will say what is wrong
        return _started(command, output, directory, environment)


def _resident(pid: int) -> int:
    """Bytes of memory of a process and its children."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def _explained(code: int, said: str) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        more = " (the system's answer to running out of memory, among others)" if name == "SIGKILL" else ""
        return f"the process died of {name}{more}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    quoted = " | ".join(errors or lines[-3:])[-QUOTED:]
    return f"the process ended with code {code}, and said: {quoted or 'nothing'}"
