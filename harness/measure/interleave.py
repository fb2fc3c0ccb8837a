"""Rounds: every contender once per round, in an order drawn anew for each."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Mapping

from harness.measure.clock import Clock, Step

FEWEST_ROUNDS = 2
MOST_ROUNDS = 500
WARM_UP_ROUNDS = (2, 6)
"""At least and at most."""
SETTLED = 1.05
"""Warm-up ends with a round that takes at most this multiple of the fastest one before it."""


class BudgetError(ValueError):
    """The budget has no room for two rounds; the message names the one that has."""


class Rounds:
    """Times contenders interleaved. The first one is the lead: the one that a benchmark harness drives.

    Per round call `before`, `lead`, `after`, or `run` for all of them. Disturbances of the machine last longer than a
    step, so that they hit all contenders of a round, and the random order leaves no contender in a better place.
    ``samples[name][i]`` is the latency in round ``i``, ``paces`` the same for the device's own clock where it has one,
    ``orders[i]`` the order.
    """

    def __init__(self, contenders: Mapping[str, Step], clock: Clock, *, seed: int = 0) -> None:
        self.contenders = dict(contenders)
        self.leader = next(iter(self.contenders))
        self.clock = clock
        self.samples: dict[str, list[float]] = {name: [] for name in contenders}
        self.paces: dict[str, list[float]] = {name: [] for name in contenders}
        self.orders: list[tuple[str, ...]] = []
        self.planned = MOST_ROUNDS
        self._random = random.Random(seed)
        self._order: tuple[str, ...] = ()

    def warm_up(self, seconds: float) -> float:
        """Untimed rounds until they have settled, or `seconds` are spent; at least two. Seconds of the last one."""
        fewest, most = WARM_UP_ROUNDS
        fastest = math.inf
        began = time.perf_counter()
        for done in range(1, most + 1):
            start = time.perf_counter()
            for step in self.contenders.values():
                self.clock.latency(step)
                self.clock.pace(step)
            took = time.perf_counter() - start
            if done >= fewest and (took <= fastest * SETTLED or time.perf_counter() - began > seconds):
                break
            fastest = min(fastest, took)
        return took

    def plan(self, budget: float, round_seconds: float) -> int:
        """How many rounds fit in ``budget`` seconds. Raises BudgetError where two don't."""
        fitting = int(budget / round_seconds)
        if fitting < FEWEST_ROUNDS:
            raise BudgetError(
                f"--budget {budget:g}: too small for {FEWEST_ROUNDS} rounds; one round of {len(self.contenders)} "
                f"contenders takes {round_seconds:.2g} s here, so give at least "
                f"--budget {math.ceil(FEWEST_ROUNDS * round_seconds * 1.1)}"
            )
        self.planned = min(fitting, MOST_ROUNDS)
        return self.planned

    def before(self) -> None:
        """Draw this round's order and time those that come before the lead."""
        gc.collect(0)  # cycles that the last round left would otherwise pile up while collection is off
        self._order = tuple(self._random.sample(list(self.contenders), len(self.contenders)))
        for name in self._order[: self._order.index(self.leader)]:
            self._time(name)

    def lead(self) -> None:
        """Time the lead."""
        self._time(self.leader)

    def after(self) -> None:
        """Time those that come after the lead, and close the round."""
        for name in self._order[self._order.index(self.leader) + 1 :]:
            self._time(name)
        if self._kept:
            for name in self._order:
                pace = self.clock.pace(self.contenders[name])
                if pace is not None:
                    self.paces[name].append(pace)
            self.orders.append(self._order)

    def run(self, rounds: int) -> None:
        """That many rounds."""
        for _ in range(rounds):
            self.before()
            self.lead()
            self.after()

    @property
    def _kept(self) -> bool:
        """Whether the current round counts: a profiler asks for more of them than planned."""
        return len(self.orders) < self.planned

    def _time(self, name: str) -> None:
        seconds = self.clock.latency(self.contenders[name])
        if self._kept:
            self.samples[name].append(seconds)
