"""test_rounds."""

from __future__ import annotations

import cProfile
import gc
import pstats
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from harness.measure.clock import Step, undisturbed
from harness.measure.rounds import (
    ENOUGH_ROUNDS,
    LOOK_EVERY,
    MOST_ROUNDS,
    WARM_UP_ROUNDS,
    BudgetError,
    Rounds,
    Stopping,
    rounds_within,
)
from harness.statistics.ratios import (
    MINIMUM_ROUNDS,
    RatioEstimate,
    clean,
    half_width,
    minimum_detectable_effect,
    paired_ratio,
    verdict,
)


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


class Time:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def sampled(rounds: int, scatter: float, seed: int = 0) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    return {name: list(np.exp(scatter * random.standard_normal(rounds))) for name in ("ours", "again", "theirs")}


def test_stops_when_every_ratio_is_known_well_enough() -> None:
    stop = Stopping(precision=0.01, budget=100, clock=Time())
    assert not stop.enough(sampled(ENOUGH_ROUNDS - 1, 1e-4))
    assert not stop.enough(sampled(ENOUGH_ROUNDS, 0.1))
    one_is_wide = sampled(ENOUGH_ROUNDS, 1e-4) | {"theirs": sampled(ENOUGH_ROUNDS, 0.1)["theirs"]}
    assert not stop.enough(one_is_wide)
    assert stop.enough(sampled(ENOUGH_ROUNDS, 1e-4))
    assert stop.reason == "precision"


def test_stops_when_the_budget_is_spent_but_not_before_two_rounds() -> None:
    time = Time()
    stop = Stopping(precision=0.01, budget=10, clock=time)
    stop.start()
    time.now = 11
    assert not stop.enough(sampled(1, 0.1))
    assert stop.enough(sampled(2, 0.1))
    assert stop.reason == "budget"


def test_disturbed_rounds_do_not_count_and_more_are_taken() -> None:
    time = Time()
    stop = Stopping(precision=0.01, budget=10, clock=time)
    samples = sampled(ENOUGH_ROUNDS, 1e-4)
    assert not stop.enough(samples, {0, 1})
    time.now = 10.5
    assert not stop.enough(samples, {0, 1})
    time.now = 11.1
    assert stop.enough(samples, {0, 1})
    assert stop.reason == "budget"


def test_where_all_rounds_are_disturbed_nothing_is_given_back() -> None:
    time = Time()
    stop = Stopping(precision=0.01, budget=10, clock=time)
    samples = sampled(ENOUGH_ROUNDS, 1e-4)
    assert not stop.enough(samples, range(ENOUGH_ROUNDS))
    time.now = 10
    assert stop.enough(samples, range(ENOUGH_ROUNDS))
    assert stop.reason == "budget"


def test_stops_after_the_most_rounds() -> None:
    stop = Stopping(precision=1e-9, budget=1e9, clock=Time())
    assert stop.enough(sampled(MOST_ROUNDS, 0.5))
    assert stop.reason == "rounds"


def test_stopping_early_keeps_the_interval_honest() -> None:
    """Of 200 comparisons of equal work stopped on precision, at least 90 % of the intervals hold no difference.

    By the rule they are looked at up to twelve times each; under 180 of 200 would have p < 1e-3 at a coverage of 95 %.
    """
    from harness.statistics.ratios import paired_ratio

    random, held = np.random.default_rng(4), 0
    for _ in range(200):
        ours, theirs = np.exp(0.02 * random.standard_normal((2, 80)))
        stop = Stopping(precision=0.012, budget=1, clock=Time())
        rounds = next(
            (n for n in range(ENOUGH_ROUNDS, 80) if stop.enough({"a": list(ours[:n]), "b": list(theirs[:n])})), 80
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("harness.statistics.ratios.RESAMPLES", 199)
            estimate = paired_ratio(ours[:rounds], theirs[:rounds])
        held += estimate.low <= 1 <= estimate.high
    assert held >= 180


def test_clean_leaves_out_rounds_unless_too_few_remain() -> None:
    samples = [float(i) for i in range(10)]
    assert clean(samples, [0, 9, "no index"]) == samples[1:9]
    assert clean(samples, range(5)) == samples
    assert len(clean(samples, range(10 - MINIMUM_ROUNDS))) == MINIMUM_ROUNDS


def test_half_width_is_half_of_the_interval() -> None:
    assert half_width([1.0] * 5, [1.0] * 5) == float("inf")
    assert half_width([1.0] * 20, [1.0] * 20) == 0


def test_the_minimum_detectable_effect_is_found_as_often_as_promised() -> None:
    """An effect of that size is claimed in about 80 of 100 runs: between 65 and 95 of 100 here, by seed."""
    random = np.random.default_rng(5)
    error, floor = 0.005, 0.002
    half = 1.96 * error
    effect = minimum_detectable_effect(RatioEstimate(ratio=1.0, low=np.exp(-half), high=np.exp(half), rounds=30), floor)
    claimed = 0
    for shift in effect + error * random.standard_normal(100):
        estimate = RatioEstimate(ratio=np.exp(shift), low=np.exp(shift - half), high=np.exp(shift + half), rounds=30)
        claimed += verdict(estimate, floor) == "faster"
    assert 65 <= claimed <= 95
    assert minimum_detectable_effect(RatioEstimate(ratio=1, low=0, high=2, rounds=2), floor) == float("inf")


def test_looks_are_at_every_fifth_round_only() -> None:
    assert ENOUGH_ROUNDS % LOOK_EVERY == 0
    assert not Stopping(precision=1, budget=100, clock=Time()).enough(sampled(ENOUGH_ROUNDS + 1, 1e-4))
