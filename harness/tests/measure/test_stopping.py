from __future__ import annotations

import numpy as np
import pytest

from harness.measure import stopping
from harness.measure.stopping import ENOUGH_ROUNDS, MOST_ROUNDS, Stopping
from harness.statistics.ratios import (
    MINIMUM_ROUNDS,
    RatioEstimate,
    clean,
    half_width,
    minimum_detectable_effect,
    verdict,
)


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
    assert ENOUGH_ROUNDS % stopping.LOOK_EVERY == 0
    assert not Stopping(precision=1, budget=100, clock=Time()).enough(sampled(ENOUGH_ROUNDS + 1, 1e-4))
