"""Whether something else ran on the machine while it measured.

Read from counters of the system, never from the times that were measured: a slow sample is not evidence against itself.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import psutil

WINDOW = 0.25
"""Seconds between looks at least: the system counts in ticks of 10 ms, of which this holds 25 per core; and a look
takes tens of microseconds, which a loop over short steps could not spare."""
SHARE = 0.1
"""Part of the cores' time that others may take. Rounding to ticks alone can feign 0.04 in the shortest window."""


class Watch(Protocol):
    """Tells which rounds were disturbed. ``look`` is called after every round, with the number of rounds done."""

    disturbed: dict[int, str]
    """Round -> by what."""

    def look(self, done: int) -> None:
        """Judge the rounds since the last judgement, where there is enough to judge."""
        ...


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Seconds of CPU time so far, over the cores that this process may use."""

    everyone: float
    own: float
    capacity: float
    """Busy and idle together."""


def usage() -> Usage:
    """What the system's counters say now. Time stolen by a hypervisor's other guests counts as everyone's."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    everyone = capacity = 0.0
    for core, times in enumerate(psutil.cpu_times(percpu=True)):
        if allowed is not None and core not in allowed:
            continue
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # counted in user, nice
        everyone += total - times.idle - getattr(times, "iowait", 0.0)
        capacity += total
    return Usage(everyone=everyone, own=time.process_time(), capacity=capacity)


class CpuWatch:
    """Other processes' share of the cores that this process may use."""

    def __init__(self, read: Callable[[], Usage] = usage, clock: Callable[[], float] = time.perf_counter) -> None:
        self.disturbed: dict[int, str] = {}
        self._read = read
        self._clock = clock
        self._judged = 0
        self._since = clock()
        self._before = read()

    def look(self, done: int) -> None:
        """Judge all rounds since the last look, once `WINDOW` has passed."""
        now = self._clock()
        if now - self._since < WINDOW:
            return
        usage = self._read()
        capacity = usage.capacity - self._before.capacity
        others = usage.everyone - self._before.everyone - (usage.own - self._before.own)
        if capacity > 0 and others / capacity > SHARE:
            for index in range(self._judged, done):
                self.disturbed[index] = "other processes"
        self._judged, self._since, self._before = done, now, usage


@dataclass
class AnyWatch:
    """What any of several watches saw."""

    watches: Sequence[Watch]
    disturbed: dict[int, str] = field(default_factory=dict)

    def look(self, done: int) -> None:
        """Let each look."""
        for watch in self.watches:
            watch.look(done)
            self.disturbed.update(watch.disturbed)


def tally(disturbed: dict[int, str]) -> dict[str, int]:
    """Rounds per kind of disturbance."""
    return dict(Counter(disturbed.values()))
