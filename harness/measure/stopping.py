"""When enough has been sampled: the ratio is known well enough, or the time is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from harness.statistics.ratios import MINIMUM_ROUNDS, clean, half_width

Reason = Literal["", "precision", "budget", "rounds"]

FEWEST_ROUNDS = 2
MOST_ROUNDS = 1000
ENOUGH_ROUNDS = 20
"""Looking at the interval again and again finds it narrow by chance sooner or later; with twenty rounds, and a look
at every fifth only, the interval at the stop was seen to cover as often as one of a fixed number (`noise`)."""
LOOK_EVERY = 5


class Stopping:
    """Tells after each round whether to stop, and why.

    Stops when the intervals of the ratio of the first contender to every other one are within ``precision`` to either
    side (0.01 is one per cent), when ``budget`` seconds are spent, or after `MOST_ROUNDS`. Rounds in which the machine
    was disturbed don't count, and the time that they took is given back, up to a second ``budget``; where all were
    disturbed nothing is given back, since more would be no better.
    """

    def __init__(self, *, precision: float, budget: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.precision = precision
        self.budget = budget
        self.reason: Reason = ""
        self._clock = clock
        self._began = clock()

    def start(self) -> None:
        """The rounds begin now."""
        self._began = self._clock()

    def enough(self, samples: Mapping[str, Sequence[float]], disturbed: Collection[int] = ()) -> bool:
        """Whether to stop after the rounds in ``samples``; ``reason`` says why."""
        lead, *others = samples.values()
        rounds = len(lead)
        if rounds < FEWEST_ROUNDS:
            return False
        if self._clock() - self._began >= self._allowed(rounds, len(disturbed)):
            self.reason = "budget"
        elif rounds >= MOST_ROUNDS:
            self.reason = "rounds"
        elif rounds - len(disturbed) >= ENOUGH_ROUNDS and not rounds % LOOK_EVERY:
            kept = clean(lead, disturbed)
            if all(half_width(kept, clean(other, disturbed)) <= self.precision for other in others):
                self.reason = "precision"
        return bool(self.reason)

    def _allowed(self, rounds: int, disturbed: int) -> float:
        if rounds - disturbed < 1 or rounds < MINIMUM_ROUNDS:
            return self.budget
        return self.budget * (1 + disturbed / rounds)
