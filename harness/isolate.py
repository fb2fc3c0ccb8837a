"""A benchmark in a process of its own: what becomes of it is a result, whatever it is."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.records.codec import read_records
from harness.records.schema import Record

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
                    reason = f"did not come back within --timeout ({timeout:g} s): stopped"
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
    records = tuple(r for path in sorted(results.glob("*/records.jsonl")) for r in read_records(path))
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
