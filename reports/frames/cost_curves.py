"""Cost curves: how time and memory grow with the batch and with the side of the image, and the exponent that fits.

>>> from reports.frames.cost_curves import cost_curves
>>> cost_curves(load("latest"))[["architecture", "subject", "quantity", "axis", "exponent"]]

A run has curves where it measured several sizes: ``--batch-size 1,8,32 --input-size 128,224,320``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from reports.frames.ratios import SETTING

if TYPE_CHECKING:
    from reports.frames.run import Run

AXES = ("batch_size", "input_size")
QUANTITIES = ("latency", "peak_memory")
FEWEST = 3
"""Sizes: through two points any power fits."""
COLUMNS: Mapping[str, str] = {
    **{name: "str" for name in SETTING if name not in AXES},
    "subject": "str",
    "role": "str",
    "quantity": "str",
    "axis": "str",
    "fixed": "int64",
    "sizes": "object",
    "amounts": "object",
    "exponent": "float64",
    "low": "float64",
    "high": "float64",
    "flag": "str",
}


def cost_curves(run: Run) -> pd.DataFrame:
    """One row per implementation, quantity and axis with at least three sizes.

    ``suite``, ``architecture``, ``mode``, ``device``, ``dtype``, ``memory_format``, ``compile``, ``subject``, ``role``
    (str); ``quantity`` (str): latency (s, median) or peak_memory (byte); ``axis`` (str): batch_size or input_size;
    ``fixed`` (int64): the other of the two; ``sizes``, ``amounts`` (object: list, by size); ``exponent``, ``low``,
    ``high`` (float64): amount grows as size to that power, with its 95 % interval (NaN where amounts are no powers:
    zero); ``flag`` (str): why the subject isn't ranked.
    """
    frame = run.measurements
    frame = frame[frame["quantity"].isin(QUANTITIES) & (frame["replicate"] == 0) & (frame["role"] != "machine")]
    rows = []
    for axis in AXES:
        other = AXES[1 - AXES.index(axis)]
        keys = [name for name in (*SETTING, "subject", "role", "quantity") if name != axis]
        for key, series in frame.groupby(keys, sort=False):
            known = dict(zip(keys, key, strict=True))
            points = series.groupby(axis)["median"].median().sort_index()
            if len(points) < FEWEST:
                continue
            sizes, amounts = points.index.to_numpy(dtype=float), points.to_numpy(dtype=float)
            exponent, low, high = _power(sizes, amounts)
            fixed = known.pop(other)
            rows.append(
                known
                | {"axis": axis, "fixed": fixed, "sizes": [int(s) for s in sizes], "amounts": list(amounts)}
                | {"exponent": exponent, "low": low, "high": high}
                | {"flag": next((f for f in series["flag"] if f), "")}
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict(COLUMNS))


def _power(sizes: np.ndarray, amounts: np.ndarray) -> tuple[float, float, float]:
    """Slope of log amount over log size by least squares, and its 95 % interval by Student's t."""
    if not (np.isfinite(amounts) & (amounts > 0)).all():
        return np.nan, np.nan, np.nan
    from scipy import stats

    line = stats.linregress(np.log(sizes), np.log(amounts))
    reach = float(stats.t.ppf(0.975, len(sizes) - 2)) * float(line.stderr)
    return float(line.slope), float(line.slope) - reach, float(line.slope) + reach
