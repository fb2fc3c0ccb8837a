"""Since when: the runs at which a figure's level changed, found over the whole history of a series.

>>> from harness.statistics.levels import change_points
>>> found = change_points(history, keys=["architecture", "mode", "subject", "reference"], value="ratio")

Night against night misses a loss of one per cent that stays; over many nights it stands out from the scatter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SHORTEST = 3
"""Runs that a level must hold for: a single bad night is none, and the newest two nights can't be told from one."""
FEWEST = 2 * SHORTEST
PENALTY = 4.0
"""Per change point, in units of the scatter's variance times the logarithm of the number of runs. 2 is Schwarz's
criterion for normal scatter; twice that leaves heavy tails their due: of 200 series of 60 runs that only scatter
(Student's t with 4 degrees of freedom), fewer than one in twenty was seen to have a change point."""
LEAST_SCATTER = 1e-4
"""Relative: figures that repeat exactly (counts, bytes) still need a change of this order."""


def change_points(history: pd.DataFrame, keys: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Where the level of ``value`` changed within each series, a series being the rows that share ``keys``.

    ``history`` has one row per run and series with ``run``, ``started`` and ``commit`` (str) besides, in any order;
    runs sort by ``started``. Values that are missing, infinite or not positive are left out: no verdict comes from
    them. One row per change: the keys, ``run``, ``started`` and ``commit`` of the first run at the new level,
    ``previous`` (the run before it), ``before`` and ``after`` (medians of the levels), ``change`` (after over before)
    and ``runs`` (at the new level so far, until the next change).
    """
    found = []
    for key, series in history.groupby(list(keys), sort=False, dropna=False):
        values = pd.to_numeric(series[value], errors="coerce").to_numpy(dtype=np.float64)
        known = series[np.isfinite(values) & (values > 0)].sort_values(["started", "run"], kind="stable")
        amounts = known[value].to_numpy(dtype=np.float64)
        bounds = [0, *level_changes(amounts), len(known)]
        for first, start, end in zip(bounds, bounds[1:], bounds[2:], strict=False):
            before, after = float(np.median(amounts[first:start])), float(np.median(amounts[start:end]))
            run, previous = known.iloc[start], known.iloc[start - 1]
            found.append(
                dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
                | {name: run[name] for name in ("run", "started", "commit")}
                | {"previous": previous["run"], "before": before, "after": after, "change": after / before}
                | {"runs": end - start}
            )
    columns = [*keys, "run", "started", "commit", "previous", "before", "after", "change", "runs"]
    return pd.DataFrame(found, columns=columns)


def level_changes(amounts: NDArray[np.float64]) -> list[int]:
    """Indices at which a new level begins, for positive amounts in the order of time.

    Exact segmentation of the logarithms by squared distance (PELT's cost, `ruptures.KernelCPD`), with scatter taken
    from the differences of neighbours, which a change of level hardly touches.
    """
    if len(amounts) < FEWEST:
        return []
    import ruptures  # with scipy, half a second: for those who look at history only

    logs = np.log(amounts)
    scatter = float(np.median(np.abs(np.diff(logs)))) / (0.6745 * math.sqrt(2))
    scatter = max(scatter, LEAST_SCATTER)
    middle = _without_spikes(logs, 4 * scatter)
    search = ruptures.KernelCPD(kernel="linear", min_size=SHORTEST).fit(middle.reshape(-1, 1))
    return [int(i) for i in search.predict(pen=PENALTY * scatter**2 * math.log(len(logs)))[:-1]]


def _without_spikes(logs: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Each value drawn to within ``reach`` of the median of the five runs around it: one bad night weighs no more."""
    padded = np.pad(logs, 2, mode="edge")
    middle = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    drawn: NDArray[np.float64] = np.clip(logs, middle - reach, middle + reach)
    return drawn
