"""The sweep in one line of the terminal."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from harness.records.verdicts import BAD
from harness.sweep.dispatch import State

SHOWN = 2
"""Running tasks that are named."""
TERMINAL = 1.0
LOG = 30.0
"""Seconds between lines: in a terminal the same line, else a new one."""


class Progress:
    """Writes what is done, what failed, what runs where, and the time left."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._began = time.monotonic()
        self._last = 0.0
        self._before: int | None = None

    def __call__(self, state: State) -> None:
        """Write it if it is time."""
        now = time.monotonic()
        if self._before is None:
            self._before = state.done
        if now - self._last < (TERMINAL if self._live else LOG) and state.done < state.total:
            return
        self._last = now
        line = describe(state, elapsed=now - self._began, before=self._before)
        over = state.done >= state.total
        self._stream.write(f"\r\x1b[K{line}" + "\n" * over if self._live else line + "\n")
        self._stream.flush()


def describe(state: State, *, elapsed: float, before: int = 0) -> str:
    """The line; ``before`` tasks were done when this started, ``elapsed`` seconds ago."""
    failed = sum(state.outcomes.get(outcome, 0) for outcome in BAD)
    parts = [f"{state.done}/{state.total} tasks", f"{failed} checks failed"]
    if state.retried:
        parts.append(f"{state.retried} retried")
    running = [f for f in state.running.values() if f.placement]
    named = ", ".join(f"{f.task.key} on {f.placement.get('host', '?')}" for f in running[:SHOWN])
    if running:
        more = f" and {len(running) - SHOWN} more" if len(running) > SHOWN else ""
        parts.append(f"{len(running)} running ({named}{more})")
    fresh = state.done - before
    if fresh and state.done < state.total:
        parts.append(f"about {duration(elapsed / fresh * (state.total - state.done))} left")
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """Rounded to what matters: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
