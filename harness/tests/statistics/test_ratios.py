from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from harness.statistics.ratios import (
    INSTANCE_SCATTER,
    MINIMUM_ROUNDS,
    POOLED,
    TRIMMED,
    RatioEstimate,
    Verdict,
    latency_percentiles,
    noise_floor,
    paired_ratio,
    point_ratios,
    throughput,
    verdict,
)

times = st.floats(1e-4, 1e2)
rounds_of_two = st.lists(st.tuples(times, times), min_size=1, max_size=12)


def test_ratio_is_of_throughputs() -> None:
    estimate = paired_ratio([1.0] * 8, [2.0] * 8, instance_scatter=0.0)
    assert estimate == RatioEstimate(ratio=2.0, low=2.0, high=2.0, rounds=8)


@pytest.mark.parametrize("rounds", [8, 40])
def test_an_interval_holds_the_truth_where_instances_differ_for_as_long_as_they_live(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comparison has instances of its own. Of 400 intervals with 0.95 each, fewer than 364 have p < 1e-3."""
    monkeypatch.setattr("harness.statistics.ratios.RESAMPLES", 199)
    random = np.random.default_rng(4)
    held = {True: 0, False: 0}
    for _ in range(400):
        instances = INSTANCE_SCATTER * random.standard_normal((3, 1))
        ours, twin, theirs = np.exp(instances + 0.003 * random.standard_normal((3, rounds)))
        for aware in held:
            estimate = paired_ratio(ours, theirs, twin, instance_scatter=INSTANCE_SCATTER if aware else 0.0)
            held[aware] += estimate.low <= 1 <= estimate.high
    assert held[True] >= 364
    assert held[False] < 340


@given(rounds_of_two)
def test_ratio_lies_in_its_interval_and_swapping_inverts_it(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    assert there.low <= there.ratio <= there.high
    assert there.ratio == pytest.approx(1 / back.ratio)


@given(rounds_of_two, st.floats(0.01, 100))
def test_a_disturbance_of_whole_rounds_cancels(pairs: list[tuple[float, float]], slowdown: float) -> None:
    a, b = np.array(pairs).T
    slow = np.where(np.arange(len(a)) % 2, slowdown, 1.0)
    assert paired_ratio(a * slow, b * slow).ratio == pytest.approx(paired_ratio(a, b).ratio)


def test_one_round_has_no_bound() -> None:
    estimate = paired_ratio([1.0], [3.0])
    assert (estimate.low, estimate.high) == (0.0, math.inf)
    assert noise_floor([1.0], [1.0]) == math.inf


@pytest.mark.parametrize("rounds", [MINIMUM_ROUNDS, 9, 20])
def test_interval_covers_the_truth_as_often_as_it_says(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the true ratio with about 0.95; over 200 draws fewer than 175 have p < 1e-4."""
    monkeypatch.setattr("harness.statistics.ratios.RESAMPLES", 199)  # the trimmed t carries the promise
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        noise = np.exp(0.02 * random.standard_t(2, size=rounds))
        estimate = paired_ratio(np.ones(rounds), 1.03 * noise)
        held += estimate.low <= 1.03 <= estimate.high
    assert held >= 175


def test_noise_floor_is_half_the_interval_of_a_pair_of_equals_and_the_farther_bound_of_unequals() -> None:
    random = np.random.default_rng(2)
    a, b = np.exp(0.01 * random.standard_normal((2, 30)))
    estimate = paired_ratio(a, b)
    width = math.log(estimate.high) - math.log(estimate.low)
    assert noise_floor(a, b) == pytest.approx(POOLED * width / 2)
    assert noise_floor(a, 1.05 * b) == pytest.approx(math.log(1.05 * estimate.high))
    assert noise_floor(1.05 * a, b) == pytest.approx(math.log(1.05 / estimate.low))


def test_a_second_instance_counts_as_much_as_the_first() -> None:
    reference, first, second = [1.0] * 8, [2.0] * 8, [8.0] * 8
    assert paired_ratio(first, reference, second).ratio == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="8 rounds of the subject, 7 of its second instance"):
        paired_ratio(first, reference, second[1:])


def test_two_instances_and_the_middle_half_scatter_less_than_medians_of_one() -> None:
    """Of 400 ratios of equal work, 40 rounds each, with tails such as timings have."""
    random = np.random.default_rng(3)
    times = np.exp(0.05 * random.standard_t(4, size=(400, 3, 40)))
    medians = [float(np.median(np.log(r) - np.log(s))) for s, _, r in times]
    pooled = [float(trim_mean(np.log(r) - (np.log(s) + np.log(a)) / 2, TRIMMED)) for s, a, r in times]
    assert np.std(pooled) < 0.9 * np.std(medians)


@pytest.mark.parametrize(
    ("ratio", "low", "high", "rounds", "floor", "expected"),
    [
        (1.10, 1.05, 1.15, 20, 0.02, "faster"),
        (0.90, 0.85, 0.95, 20, 0.02, "slower"),
        (1.10, 0.99, 1.20, 20, 0.02, "no difference seen"),  # the interval covers 1
        (1.01, 1.005, 1.02, 20, 0.02, "no difference seen"),  # under the floor
        (1.00, 1.00, 1.00, 20, 0.0, "no difference seen"),
        (1.10, 1.05, 1.15, MINIMUM_ROUNDS - 1, 0.02, "cannot tell"),
        (1.10, 1.05, 1.15, 20, math.inf, "cannot tell"),
    ],
)
def test_verdict(ratio: float, low: float, high: float, rounds: int, floor: float, expected: Verdict) -> None:
    assert verdict(RatioEstimate(ratio=ratio, low=low, high=high, rounds=rounds), floor) == expected


def test_percentiles_and_throughput() -> None:
    latency = latency_percentiles(np.arange(1, 101) / 100)
    assert latency.median == pytest.approx(0.505)
    assert latency.p95 == pytest.approx(0.9505)
    assert latency.p99 == pytest.approx(0.9901)
    assert throughput([0.5, 0.25, 1.0], batch_size=8) == 16


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_impossible_times_are_named(bad: float) -> None:
    with pytest.raises(ValueError, match="not a possible time; suspect the clock"):
        paired_ratio([1.0, bad], [1.0, 1.0])


def test_unpaired_and_empty_samples_are_named() -> None:
    with pytest.raises(ValueError, match="2 rounds of the subject against 1 of the reference"):
        paired_ratio([1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="expected a row of times"):
        latency_percentiles([])


def test_reports_can_use_it_where_torch_is_not_installed() -> None:
    program = "import sys, harness.statistics.ratios; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("rounds", [1, 2, 7, 12, 33, 128, 1000])
def test_ratios_of_many_without_intervals_are_those_of_each(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.statistics.ratios.RESAMPLES", 99)  # no part of the ratio
    random = np.random.default_rng(rounds)
    ours, theirs, twin = np.exp(random.standard_normal((3, 20, rounds)))
    assert point_ratios(ours, theirs) == [paired_ratio(a, b).ratio for a, b in zip(ours, theirs, strict=True)]
    both = zip(ours, theirs, twin, strict=True)
    assert point_ratios(ours, theirs, twin) == [paired_ratio(*times).ratio for times in both]


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_time_leaves_its_own_comparison_without_a_ratio(bad: float) -> None:
    ours = [[1.0] * 7, [1.0] * 6 + [bad]]
    assert point_ratios(ours, [[2.0] * 7] * 2) == pytest.approx([2.0, math.nan], nan_ok=True)
    assert point_ratios([[1.0] * 7] * 2, [[2.0] * 7] * 2, ours) == pytest.approx([2.0, math.nan], nan_ok=True)
