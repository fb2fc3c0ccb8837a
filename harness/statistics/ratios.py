"""What is derived from raw samples when they are read: percentiles, ratios with intervals, the noise floor, a verdict.

numpy and scipy only, so that a report can be rendered where torch isn't installed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Verdict = Literal["faster", "slower", "no difference seen", "cannot tell"]

CONFIDENCE = 0.95
RESAMPLES = 9_999
SEED = 20_151_210
"""Fixed, so that the same samples always read as the same interval."""
POWER = 0.8
"""Probability with which an effect as large as the minimum detectable one is found."""
MINIMUM_ROUNDS = 6
"""The median of n rounds lies outside their whole range with probability 2 / 2**n, whatever the distribution: under
1 - CONFIDENCE from six rounds on. With fewer, no interval from the samples alone has the confidence stated."""
TRIMMED = 0.25
"""Share of the rounds that is left out at either end."""
POOLED = math.sqrt(3) / 2
"""Scatter of the mean of two against one, over that of one against one: the root of (1/2 + 1) / (1 + 1)."""

INSTANCE_SCATTER = 0.002
"""Relative standard deviation of the time of one instance of a network among others just like it, for as long as it
lives, presumably by where its objects happen to lie. More rounds don't tell. Of six instances of a ResNet-18 it was
about 0.1 to 0.15 % on a quiet machine, with shared weights and images too, and none could be seen where one instance
stood in for all six. Rounded up: seen on one machine."""


@dataclass(frozen=True, kw_only=True)
class RatioEstimate:
    """Throughput of a subject over that of a reference, with its 95 % interval; above 1 the subject is faster."""

    ratio: float
    low: float
    high: float
    rounds: int
    """Pairs of samples it rests on. With a single one the interval is (0, inf)."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.ratio <= self.high:
            raise ValueError(f"ratio {self.ratio!r} is not inside its interval ({self.low!r}, {self.high!r})")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles of the time of one batch, in seconds."""

    median: float
    p95: float
    p99: float


def latency_percentiles(samples: ArrayLike) -> Latency:
    """Median, 95th and 99th percentile (linear between samples). Raises ValueError for empty or impossible times."""
    median, p95, p99 = np.percentile(_times(samples, "samples"), (50, 95, 99))
    return Latency(median=float(median), p95=float(p95), p99=float(p99))


def throughput(samples: ArrayLike, batch_size: int) -> float:
    """Images per second at the median time of a batch."""
    return batch_size / latency_percentiles(samples).median


def paired_ratio(
    subject: ArrayLike,
    reference: ArrayLike,
    again: ArrayLike | None = None,
    *,
    instance_scatter: float = INSTANCE_SCATTER,
) -> RatioEstimate:
    """Ratio of throughputs, subject over reference: exp of the interquartile mean over rounds of log(reference time /
    subject time).

    ``subject[i]`` and ``reference[i]`` are the times of round ``i``: what slowed a round slowed both, and cancels.
    ``again`` are the times of a second instance of the subject, where there is one: in each round the two count
    together, as their geometric mean, so that where in memory an instance happens to lie matters half as much. The mean
    of the middle half of the rounds is as deaf to a disturbed round as the median is, and scatters less (here by a
    tenth: Huber 1981, section 1.7, has its efficiency). Its interval is the bias-corrected and accelerated bootstrap's
    (Efron 1987) over rounds, widened to that of the trimmed t (Tukey and McLaughlin 1963) where it reaches further: of
    tens of rounds the bootstrap alone covers 91 to 94 %. To the scatter of the rounds that of the instances is added
    (as variances are: GUM 2008, section 4.3, a type B uncertainty); ``instance_scatter`` is 0 for times of the same
    instance. Raises ValueError where they aren't paired, or a time is not positive and finite.
    """
    logs = _paired(subject, reference, again)
    middle, (low, high) = float(_middle(logs)), _interval(logs)
    apart = math.sqrt((1 if again is None else 1 / 2) + 1) * instance_scatter * _normal(CONFIDENCE)
    low, high = middle - math.hypot(middle - low, apart), middle + math.hypot(high - middle, apart)
    return RatioEstimate(ratio=math.exp(middle), low=math.exp(low), high=math.exp(high), rounds=len(logs))


def point_ratios(subject: ArrayLike, reference: ArrayLike, again: ArrayLike | None = None) -> list[float]:
    """The ratio of `paired_ratio` without its interval, to the last digit, for many comparisons at once.

    Times of shape (comparisons, rounds) in seconds, one after the other as there; NaN where a time of a comparison is
    not positive and finite.
    """
    times = [np.asarray(t, dtype=np.float64) for t in (subject, reference, again) if t is not None]
    possible = np.all([np.all(np.isfinite(t) & (t > 0), axis=-1) for t in times], axis=0)
    ours, theirs, *twin = (t[possible] for t in times)
    found = np.full(possible.shape, math.nan)
    found[possible] = [math.exp(middle) for middle in _middle(_logs(ours, theirs, *twin))]
    return [float(ratio) for ratio in found]


def noise_floor(a: ArrayLike, b: ArrayLike) -> float:
    """Smallest effect that this run could have seen, from the times of the same work measured twice.

    In log units: 0.02 reads as 2 %. Half the width of the A/A interval, times `POOLED`, since a ratio sets both
    instances against a reference. Where the interval excludes 1 the two differ by more than chance; then it is its
    farther bound. Infinite with a single round.
    """
    estimate = paired_ratio(a, b)
    if estimate.rounds < 2:
        return math.inf
    low, high = math.log(estimate.low), math.log(estimate.high)
    return POOLED * (high - low) / 2 if low <= 0 <= high else max(high, -low)


def clean(samples: Sequence[float], disturbed: Iterable[Any]) -> list[float]:
    """``samples`` without those of the rounds ``disturbed``; all of them where fewer than `MINIMUM_ROUNDS` remain.

    Whether the machine was disturbed is known for a round as a whole and from without, never from a time, so that
    leaving rounds out favours no contender.
    """
    gone = {index for index in disturbed if isinstance(index, int)}
    kept = [value for index, value in enumerate(samples) if index not in gone]
    return kept if len(kept) >= MINIMUM_ROUNDS else list(samples)


def half_width(a: ArrayLike, b: ArrayLike) -> float:
    """Half of the trimmed t's interval of the paired log ratio: a quick look, without a bootstrap, at what more rounds
    would make narrower.

    Infinite with fewer than `MINIMUM_ROUNDS`.
    """
    logs = _paired(a, b)
    return _trimmed_t(logs) if len(logs) >= MINIMUM_ROUNDS else math.inf


def minimum_detectable_effect(estimate: RatioEstimate, floor: float) -> float:
    """The smallest true effect, in log units, that `verdict` would claim with probability `POWER`.

    An effect is claimed where it exceeds both the noise floor and half of the estimate's interval; the estimate itself
    scatters around the effect with a standard error of half the interval over 1.96, so that an effect which lies 0.84
    of these above the larger threshold is claimed in 80 of 100 runs. Infinite where nothing can be claimed.
    """
    if estimate.rounds < MINIMUM_ROUNDS or estimate.low <= 0 or not math.isfinite(estimate.high):
        return math.inf
    half = (math.log(estimate.high) - math.log(estimate.low)) / 2
    error = half / _normal(CONFIDENCE)
    return max(floor, half) + float(stats.norm.ppf(POWER)) * error


def verdict(estimate: RatioEstimate, floor: float) -> Verdict:
    """What may be said of a ratio, given the noise floor (in log units, as `noise_floor` gives it).

    A difference is claimed only when the interval excludes 1 *and* the effect exceeds the floor, and nothing is
    claimed from fewer than `MINIMUM_ROUNDS`.
    """
    if estimate.rounds < MINIMUM_ROUNDS or not math.isfinite(floor):
        return "cannot tell"
    return claim(estimate.ratio, estimate.low, estimate.high, floor)


def claim(ratio: float, low: float, high: float, floor: float) -> Verdict:
    """What an interval and a floor (log units) leave to say of a ratio of throughputs."""
    if abs(math.log(ratio)) <= floor or low <= 1 <= high:
        return "no difference seen"
    return "faster" if ratio > 1 else "slower"


def _normal(confidence: float) -> float:
    """Standard deviations to either side that hold so much of a normal distribution."""
    return float(stats.norm.ppf((1 + confidence) / 2))


def _times(samples: ArrayLike, whose: str) -> NDArray[np.float64]:
    times = np.asarray(samples, dtype=np.float64)
    if times.ndim != 1 or not len(times):
        raise ValueError(f"{whose}: expected a row of times, got shape {times.shape}")
    bad = times[~(np.isfinite(times) & (times > 0))]
    if len(bad):
        raise ValueError(f"{whose}: {float(bad[0])!r} s is not a possible time; suspect the clock that took it")
    return times


def _paired(subject: ArrayLike, reference: ArrayLike, again: ArrayLike | None = None) -> NDArray[np.float64]:
    """Per round, log(reference time / subject time)."""
    ours, theirs = _times(subject, "subject"), _times(reference, "reference")
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds of the subject against {len(theirs)} of the reference: not paired")
    twin = None if again is None else _times(again, "second instance")
    if twin is not None and len(twin) != len(ours):
        raise ValueError(f"{len(ours)} rounds of the subject, {len(twin)} of its second instance: not paired")
    return _logs(ours, theirs, twin)


def _logs(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], twin: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """log(theirs / ours), where the two instances of ours count as their geometric mean."""
    spent = np.log(ours) if twin is None else (np.log(ours) + np.log(twin)) / 2
    paired: NDArray[np.float64] = np.log(theirs) - spent
    return paired


def _middle(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Mean of the middle half along an axis: `scipy.stats.trim_mean`, whose checks take ten times as long."""
    rounds = np.moveaxis(values, axis, -1)
    cut = int(TRIMMED * rounds.shape[-1])
    kept = slice(cut, rounds.shape[-1] - cut)
    middle: NDArray[np.float64] = np.partition(rounds, (kept.start, kept.stop - 1), axis=-1)[..., kept].mean(axis=-1)
    return middle


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Interval of the middle half's mean; it contains the sample's. Unbounded for a single value."""
    if len(values) < 2:
        return -math.inf, math.inf
    with warnings.catch_warnings():
        # Where (almost) all values are equal the acceleration is 0/0: scipy warns and answers NaN.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        bootstrap = stats.bootstrap(
            (values,),
            _middle,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            method="BCa",
            vectorized=True,
            rng=np.random.default_rng(SEED),
        ).confidence_interval
    middle, half = float(_middle(values)), _trimmed_t(values)
    return float(np.nanmin([middle - half, bootstrap.low])), float(np.nanmax([middle + half, bootstrap.high]))


def _trimmed_t(values: NDArray[np.float64]) -> float:
    """Half width of the interval of the middle half's mean: Student's t on the deviation of values pulled in to the
    quartiles, with a degree of freedom less than values are kept."""
    count = len(values)
    cut = int(TRIMMED * count)
    kept = count - 2 * cut
    ordered = np.sort(values)
    deviation = float(np.clip(values, ordered[cut], ordered[count - 1 - cut]).std(ddof=1))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, kept - 1)) * deviation * math.sqrt(count) / kept
