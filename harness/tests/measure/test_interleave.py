from __future__ import annotations

import cProfile
import gc
import pstats
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from harness.measure.clock import Step
from harness.measure.conditions import undisturbed
from harness.measure.interleave import WARM_UP_ROUNDS, BudgetError, Rounds, rounds_within
from harness.measure.stopping import MOST_ROUNDS
from harness.statistics.ratios import paired_ratio


class ScriptedClock:
    """Runs the step and says what the script says."""

    name = "script"

    def __init__(self, seconds: Callable[[int], float], has_pace: bool = False) -> None:
        self.seconds = seconds
        self.has_pace = has_pace
        self.readings = 0

    def latency(self, step: Step) -> float:
        step()
        self.readings += 1
        return self.seconds(self.readings)

    def pace(self, step: Step) -> float:
        return -self.latency(step)


def nothing() -> None:
    """A step."""


def three(clock: ScriptedClock, calls: list[str], seed: int = 0) -> Rounds:
    return Rounds({name: lambda name=name: calls.append(name) for name in "abc"}, clock, seed=seed)  # type: ignore[misc]


def test_everyone_runs_once_per_round_in_the_order_recorded() -> None:
    calls: list[str] = []
    rounds = three(ScriptedClock(float), calls)
    rounds.plan(20)
    rounds.run()
    assert calls == [name for order in rounds.orders for name in order]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds.orders)
    assert {len(s) for s in rounds.samples.values()} == {20}


def test_samples_belong_to_their_round() -> None:
    rounds = three(ScriptedClock(float), [])
    rounds.plan(10)
    rounds.run()
    for i in range(10):
        assert {rounds.samples[n][i] for n in "abc"} == {3.0 * i + 1, 3.0 * i + 2, 3.0 * i + 3}


def test_order_is_random_and_repeatable() -> None:
    first, again, other = (three(ScriptedClock(float), [], seed) for seed in (0, 0, 1))
    for rounds in (first, again, other):
        rounds.plan(60)
    assert first.orders == again.orders != other.orders
    assert len(Counter(first.orders)) == 6  # 6 * (5/6)**60 = 1e-4 against it, and the seed is fixed


def test_a_drifting_machine_does_not_bias_the_ratio() -> None:
    """Each reading takes 0.5 % longer than the one before: back to back, 50 rounds each would differ by 28 %."""
    rounds = Rounds({"a": nothing, "b": nothing}, ScriptedClock(lambda n: 1.005**n))
    rounds.plan(50)
    rounds.run()
    assert paired_ratio(rounds.samples["a"], rounds.samples["b"]).ratio == pytest.approx(1.0, abs=0.0051)


def test_rounds_beyond_the_plan_are_not_kept() -> None:
    rounds = three(ScriptedClock(float, has_pace=True), [])
    rounds.plan(2)
    for _ in range(2):  # the second time is a profiler's
        rounds.run()
    rounds.trim()
    assert rounds.samples["a"][-1] < rounds.samples["a"][0] + 12
    assert {len(s) for s in (*rounds.samples.values(), *rounds.paces.values())} == {2}


def test_paces_are_kept_apart_and_per_round() -> None:
    rounds = three(ScriptedClock(float, has_pace=True), [])
    rounds.plan(5)
    rounds.run()
    assert {len(p) for p in rounds.paces.values()} == {5}
    assert all(p < 0 for pace in rounds.paces.values() for p in pace)
    assert all(s > 0 for sample in rounds.samples.values() for s in sample)


def test_plan_fills_the_budget_and_names_the_one_needed() -> None:
    assert rounds_within(10, 1.0) == 10
    assert rounds_within(1e6, 1.0) == MOST_ROUNDS
    with pytest.raises(BudgetError, match=r"--budget 1: too small for 2 rounds; .* give at least --budget 5$"):
        rounds_within(1, 2.0)


def test_warm_up_is_at_least_two_rounds_and_bounded() -> None:
    calls: list[str] = []
    three(ScriptedClock(float), calls).warm_up(seconds=0)
    assert Counter(calls) == dict.fromkeys("abc", WARM_UP_ROUNDS[0])
    calls.clear()
    three(ScriptedClock(float), calls).warm_up(seconds=60)
    assert WARM_UP_ROUNDS[0] <= Counter(calls)["a"] <= WARM_UP_ROUNDS[1]


def test_undisturbed_puts_everything_back() -> None:
    def profiler(*_: object) -> None:
        return None

    def inside() -> None:
        with undisturbed():
            seen.append((gc.isenabled(), sys.gettrace(), sys.getprofile()))
            raise KeyError

    seen: list[object] = []
    tracer, before = sys.gettrace(), sys.getprofile()
    sys.setprofile(profiler)
    try:
        with pytest.raises(KeyError):
            inside()
        after = sys.getprofile()
    finally:
        sys.setprofile(before)
    assert seen == [(False, None, None)]
    assert after is profiler
    assert sys.gettrace() is tracer
    assert gc.isenabled()


def test_undisturbed_pauses_cprofile_and_goes_on_with_it() -> None:
    def before() -> None: ...
    def within() -> None: ...
    def after() -> None: ...

    profile = cProfile.Profile()
    with profile:
        before()
        with undisturbed():
            within()
        after()
    seen = {function for _, _, function in pstats.Stats(profile).stats}  # type: ignore[attr-defined]
    assert {"before", "after"} <= seen
    assert "within" not in seen


def test_undisturbed_leaves_collection_off_where_it_was() -> None:
    gc.disable()
    try:
        with undisturbed():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
