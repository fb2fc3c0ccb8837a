"""Where a task runs: node, devices, pinned cores."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.process.hardware import cpu_name, gpu_facts


def placement(*, node: str, gpus: Sequence[str], cores: Sequence[int]) -> dict[str, Any]:
    """Facts for the records: ``kind`` is what has to be the same for two times to be compared."""
    names = [gpu_facts(g) for g in gpus]
    return {
        "node": node[:12],
        "host": socket.gethostname(),
        "gpus": list(gpus),
        "gpu": names[0][0] if names else "",
        "driver": names[0][1] if names else "",
        "cores": list(cores),
        "kind": names[0][0] if names else cpu_name(),
    }


PATIENCE = 60.0
"""Seconds to wait for a set: the engine gives out no more tasks than there are sets, so one is nearly free."""


def core_sets(count: int, cores: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Disjoint sets of ``count`` of the ``cores``, neighbours together; all as one set where there are fewer."""
    whole = [cores[i : i + count] for i in range(0, len(cores) - count + 1, count)]
    return whole or [cores]


@contextmanager
def pinned(count: int, folder: Path | None = None) -> Iterator[tuple[int, ...]]:
    """Hold a set of ``count`` cores: what this thread starts meanwhile runs on them and nowhere else.

    A set is a locked file in ``folder``; the system unlocks it when the process ends, however it ends. Where every set
    stays taken, or the system knows no affinity, the task runs unpinned and gets ().
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    before = os.sched_getaffinity(0)
    sets = core_sets(count, tuple(sorted(before)))
    folder = folder or Path(tempfile.gettempdir()) / f"conformance-cores-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    held, mine = _take(sets, folder)
    try:
        if mine:
            os.sched_setaffinity(0, mine)
        yield mine
    finally:
        os.sched_setaffinity(0, before)
        if held is not None:
            os.close(held)


def _take(sets: list[tuple[int, ...]], folder: Path) -> tuple[int | None, tuple[int, ...]]:
    end = time.monotonic() + PATIENCE
    while True:
        for cores in sets:
            handle = os.open(folder / f"{cores[0]}-{len(cores)}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle, cores
            os.close(handle)
        if time.monotonic() > end:
            return None, ()
        time.sleep(0.05)
