"""Interleaved rounds, and when there are enough of them."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from harness.measure.clock import Clock, Step
from harness.statistics.ratios import MINIMUM_ROUNDS, clean, half_width

WARM_UP_ROUNDS = (2, 30)
"""At least and at most."""
SETTLED = (0.98, 1.05)
"""A round whose time lies between these multiples of the fastest one before it brought nothing new."""
SETTLED_ROUNDS = 2
"""Warm-up ends with so many of them in a row."""


_Turn = tuple[Step, Callable[[float], None]]


class BudgetError(ValueError):
    """The budget has no room for two rounds; the message names the one that has."""


class Rounds:
    """Times contenders interleaved. The first one is the lead: the one that a benchmark harness drives.

    Call `plan`, then per round `before`, `lead` and `after`, or `run` for all of them. Disturbances of the machine last
    longer than a step, so that they hit all contenders of a round, and the random order leaves no contender in a better
    place. ``samples[name][i]`` is the latency in round ``i`` and ``orders[i]`` the order; ``paces`` is the same for the
    device's own clock where it has one. ``refresh`` is called before each round, untimed: it gives all of them the same
    new input.
    """

    def __init__(
        self,
        contenders: Mapping[str, Step],
        clock: Clock,
        *,
        seed: int = 0,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        self.contenders = dict(contenders)
        self.leader = next(iter(self.contenders))
        self.clock = clock
        self.samples: dict[str, list[float]] = {name: [] for name in contenders}
        self.paces: dict[str, list[float]] = {name: [] for name in contenders}
        self.orders: list[tuple[str, ...]] = []
        self.done = 0
        self.warm_up_rounds = 0
        self.settled = False
        self._refresh = refresh
        self._seed = seed
        # Between steps the caches are the steps': what is looked up or drawn there costs ten times its usual time.
        self._schedule: list[tuple[tuple[_Turn, ...], tuple[_Turn, ...]]] = []
        self._turns: dict[str, _Turn] = {n: (step, self.samples[n].append) for n, step in contenders.items()}

    def warm_up(self, seconds: float) -> float:
        """Untimed rounds until they have settled, or `seconds` are spent; at least two. Seconds of the last one.

        ``settled`` and ``warm_up_rounds`` say how it ended.
        """
        fewest, most = WARM_UP_ROUNDS
        fastest, alike = math.inf, 0
        began = time.perf_counter()
        for done in range(1, most + 1):
            start = time.perf_counter()
            for step in self.contenders.values():
                self.clock.latency(step)
                if self.clock.has_pace:
                    self.clock.pace(step)
            took = time.perf_counter() - start
            alike = alike + 1 if SETTLED[0] * fastest <= took <= SETTLED[1] * fastest else 0
            fastest = min(fastest, took)
            self.warm_up_rounds, self.settled = done, alike >= SETTLED_ROUNDS
            if done >= fewest and (self.settled or time.perf_counter() - began > seconds):
                break
        return took

    def plan(self, rounds: int) -> int:
        """Draw the orders of that many rounds; returns their number."""
        draw = random.Random(self._seed)
        names = list(self.contenders)
        self.orders = [tuple(draw.sample(names, len(names))) for _ in range(rounds)]
        for order in self.orders:
            lead = order.index(self.leader)
            turns = tuple(self._turns[name] for name in order)
            self._schedule.append((turns[:lead], turns[lead + 1 :]))
        return rounds

    def before(self) -> None:
        """Time those that come before the lead in this round's order."""
        gc.collect(0)  # cycles that the last round left would otherwise pile up while collection is off
        if self._refresh is not None:
            self._refresh()
        self._time(self._schedule[self.done % len(self._schedule)][0])

    def lead(self) -> None:
        """Time the lead."""
        step, keep = self._turns[self.leader]
        keep(self.clock.latency(step))

    def after(self) -> None:
        """Time those that come after the lead, and close the round."""
        self._time(self._schedule[self.done % len(self._schedule)][1])
        if self.clock.has_pace:
            for name in self.orders[self.done % len(self.orders)]:
                self.paces[name].append(self.clock.pace(self.contenders[name]))
        self.done += 1

    def run(self) -> None:
        """All rounds planned."""
        for _ in range(len(self.orders)):
            self.before()
            self.lead()
            self.after()

    def trim(self) -> None:
        """Let go of what no whole round stands behind; pytest-benchmark's profiling asks for steps beyond the last."""
        rounds = min(self.done, len(self.orders))
        for kept in (*self.samples.values(), *self.paces.values()):
            del kept[rounds:]
        del self.orders[rounds:]

    def _time(self, turns: tuple[_Turn, ...]) -> None:
        latency = self.clock.latency
        for step, keep in turns:
            keep(latency(step))


def rounds_within(budget: float, round_seconds: float) -> int:
    """How many rounds of ``round_seconds`` fit in ``budget`` seconds. Raises BudgetError where two don't."""
    fitting = int(budget / round_seconds)
    if fitting < FEWEST_ROUNDS:
        raise BudgetError(
            f"--budget {budget:g}: too small for {FEWEST_ROUNDS} rounds; one round of all contenders takes "
            f"{round_seconds:.2g} s here, so give at least --budget {math.ceil(FEWEST_ROUNDS * round_seconds * 1.1)}"
        )
    return min(fitting, MOST_ROUNDS)


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
