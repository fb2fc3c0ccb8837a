"""The change of a figure between two runs: from the processes that measured it, or from the rounds of one; and how
many of many changes are claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.statistics.ratios import Verdict

FALSE_CLAIMS = 0.05
"""Expected share of claims that are false, over all rows of a comparison."""
FEWEST = 4
"""Processes on each side: with three against three not even a complete separation has a probability under 0.05."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change (after over before) with its 95 % interval, and the probability of one as large by chance."""

    before: float
    after: float
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    floor: float = 0.0
    """Smallest change, in log units, that could have been seen."""
    why: str = ""
    """Why nothing can be told; "" where something can."""

    @property
    def verdict(self) -> Verdict:
        """What may be said of it alone, where it is a throughput's."""
        from harness.statistics.ratios import claim

        return "cannot tell" if self.why else claim(self.change, self.low, self.high, self.floor)


def between_processes(before: Sequence[float], after: Sequence[float]) -> Change | None:
    """Mann and Whitney's test on one figure per process; None where there are fewer than `FEWEST` on either side.

    The change is Hodges and Lehmann's: the median of all ratios between a process after and one before; its interval
    are the order statistics of these ratios that the same test would not reject.
    """
    old, new = (sorted(v for v in values if 0 < v < math.inf) for values in (before, after))
    if min(len(old), len(new)) < FEWEST:
        return None
    import numpy as np
    from scipy import stats

    shifts = np.sort(np.subtract.outer(np.log(new), np.log(old)).ravel())
    p = float(stats.mannwhitneyu(new, old, alternative="two-sided").pvalue)
    skipped = critical_value(len(old), len(new))
    return Change(
        before=float(np.median(old)),
        after=float(np.median(new)),
        change=math.exp(float(np.median(shifts))),
        low=math.exp(shifts[skipped]),
        high=math.exp(shifts[len(shifts) - 1 - skipped]),
        p=p,
    )


def critical_value(first: int, second: int) -> int:
    """The largest U that the test rejects at 2.5 % a side: so many ratios at either end lie outside the interval."""
    limit, reached = 0.025 * math.comb(first + second, first), 0
    for u in range(first * second):
        reached += _ways(first, second, u)
        if reached > limit:
            return max(0, u - 1)
    return 0


@cache
def _ways(first: int, second: int, u: int) -> int:
    """Orders of two groups in which ``u`` pairs are the wrong way round; by which group's member comes last."""
    if u < 0 or (u and not (first and second)):
        return 0
    if not u:
        return 1
    return _ways(first - 1, second, u - second) + _ways(first, second - 1, u)


def within_processes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    """From one row of ratios each (ratio, low, high, noise_floor, rounds, note).

    The interval puts the two together as independent estimates: the distance from the change to its lower bound is the
    hypotenuse of the later run's distance to its lower and the earlier run's to its upper bound (Zou and Donner 2008).
    Each run may be off by its own noise floor, in opposite directions: the floor of the change is their sum.
    """
    from scipy import stats

    from harness.statistics.ratios import MINIMUM_ROUNDS

    known = Change(before=old["ratio"], after=new["ratio"])
    for row, when in ((old, "before"), (new, "now")):
        reason = ""
        if not 0 < row["ratio"] < math.inf:
            reason = f"no ratio {when}: {row['note'] or 'times of nothing'}"
        elif row["rounds"] < MINIMUM_ROUNDS:
            reason = f"only {row['rounds']} rounds {when}"
        elif not math.isfinite(row["noise_floor"]):
            reason = f"no noise floor {when}: {row['note'] or 'no A/A pair'}"
        elif not (row["low"] > 0 and math.isfinite(row["high"])):
            reason = f"no bound {when}"
        if reason:
            return Change(before=known.before, after=known.after, why=reason)
    first, second = (tuple(math.log(row[n]) for n in ("low", "ratio", "high")) for row in (old, new))
    change = second[1] - first[1]
    below = math.hypot(second[1] - second[0], first[2] - first[1])
    above = math.hypot(second[2] - second[1], first[1] - first[0])
    error = (below if change > 0 else above) / float(stats.norm.ppf(0.975))  # towards no change
    p = float(2 * stats.norm.sf(abs(change) / error)) if error > 0 else float(change == 0)
    return Change(
        before=known.before,
        after=known.after,
        change=math.exp(change),
        low=math.exp(change - below),
        high=math.exp(change + above),
        p=p,
        floor=old["noise_floor"] + new["noise_floor"],
    )


def adjusted(probabilities: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's step-up: to claim what has at most `FALSE_CLAIMS` here keeps false claims that rare.

    NaN stands for what wasn't tested: it stays NaN, and doesn't count.
    """
    tested = [i for i, p in enumerate(probabilities) if math.isfinite(p)]
    found = [math.nan] * len(probabilities)
    if tested:
        from scipy import stats  # half a second, for those who compare only

        for i, q in zip(tested, stats.false_discovery_control([probabilities[i] for i in tested]), strict=True):
            found[i] = float(q)
    return found


def apart(before: Sequence[float], after: Sequence[float], tolerance: float = 0.0) -> int:
    """1 where all of ``after`` is larger by more than ``tolerance`` (relative), -1 where it is smaller, else 0: for
    amounts that are no matter of chance."""
    if min(after) > max(before) * (1 + tolerance):
        return 1
    return -1 if max(after) < min(before) * (1 - tolerance) else 0
