"""SIGINT and SIGTERM end a training after the step that is under way; a second one ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which ``requested`` says whether a signal came; outside the main thread it listens to none."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._answer)
            except ValueError:  # not the main thread: whoever runs it there answers for signals
                break
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _answer(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self.requested = True

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
