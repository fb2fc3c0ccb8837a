"""What the samples say about speed and memory, against the references that were measured in the same rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from reports.frames.run import Run

SETTING = ["suite", "architecture", "mode", "device", "dtype", "memory_format", "compile", "batch_size", "input_size"]
"""What is measured, where and on how much."""
IMPLEMENTATION = [*SETTING, "subject", "role"]
MODEL = ["suite", "architecture", "subject", "role"]
MACHINE = ["device", "dtype"]

RATIO_COLUMNS: Mapping[str, str] = {
    "suite": "str",
    "architecture": "str",
    "subject": "str",
    "reference": "str",
    "mode": "str",
    "device": "str",
    "dtype": "str",
    "memory_format": "str",
    "compile": "str",
    "process": "int64",
    "batch_size": "int64",
    "input_size": "int64",
    "comparison": "str",
    "rounds": "int64",
    "ratio": "float64",
    "low": "float64",
    "high": "float64",
    "noise_floor": "float64",
    "verdict": "str",
    "memory_ratio": "float64",
    "flag": "str",
    "note": "str",
}
SPEED_COLUMNS: Mapping[str, str] = {
    "suite": "str",
    "architecture": "str",
    "subject": "str",
    "role": "str",
    "mode": "str",
    "device": "str",
    "dtype": "str",
    "memory_format": "str",
    "compile": "str",
    "process": "int64",
    "batch_size": "int64",
    "input_size": "int64",
    "comparison": "str",
    "rounds": "int64",
    "images_per_second": "float64",
    "median": "float64",
    "p95": "float64",
    "p99": "float64",
    "peak_memory": "float64",
    "parameters": "float64",
    "flops": "float64",
    "achieved": "float64",
    "matmul_peak": "float64",
    "peak_share": "float64",
    "flag": "str",
}
NOT_RANKED = "not ranked"


def ratios(run: Run) -> pd.DataFrame:
    """One row per subject, reference and setting: throughput and memory of the subject over the reference's.

    ``suite``, ``architecture``, ``subject``, ``reference`` (str, "" where none was measured with it), ``mode``,
    ``device``, ``dtype``, ``memory_format``, ``compile``, ``comparison`` (str); ``process``, ``batch_size``,
    ``input_size``, ``rounds`` (int64; rounds in which the machine was disturbed are left out); ``ratio``, ``low``,
    ``high`` (float64): throughput ratio with its 95 % interval, above 1 the subject is faster; ``noise_floor``
    (float64, absolute log ratio; infinite where there is no A/A pair): the smallest effect that could have been seen;
    ``verdict`` (str): faster, slower, no difference seen, cannot tell, or not ranked (flagged subject);
    ``memory_ratio`` (float64): largest peak memory of the subject over the reference's, below 1 it takes less;
    ``flag`` (str): why it isn't ranked; ``note`` (str): why there is no ratio.
    """
    if "ratios" not in run.derived:
        run.derived["ratios"] = _ratios(run.measurements)
    return run.derived["ratios"].copy()


def speeds(run: Run) -> pd.DataFrame:
    """One row per implementation and setting, subjects and references alike.

    ``suite``, ``architecture``, ``subject``, ``role``, ``mode``, ``device``, ``dtype``, ``memory_format``, ``compile``,
    ``comparison`` (str); ``process``, ``batch_size``, ``input_size``, ``rounds`` (int64); ``images_per_second``
    (float64, at the median); ``median``, ``p95``, ``p99`` (float64, s, of one batch); ``peak_memory`` (float64, byte,
    the largest seen); ``parameters`` (float64); ``flops`` (float64, of one batch); ``achieved``, ``matmul_peak``
    (float64, flop/s): at the median, and the median of what the machine reached multiplying matrices; ``peak_share``
    (float64): achieved over that peak; ``flag`` (str).
    """
    frame = run.measurements
    memory, flop_counts = _by(frame, "peak_memory", IMPLEMENTATION), _by(frame, "flops", IMPLEMENTATION)
    # A model's size holds for every mode, device and batch; the machine's peak for everything that ran on it.
    sizes, peaks = _by(frame, "parameters", MODEL), _by(frame, "matmul_peak", MACHINE, "median")
    rows = []
    for row in _latest(frame[(frame["quantity"] == "latency") & (frame["replicate"] == 0)]).to_dict("records"):
        flops, peak = _find(flop_counts, row, IMPLEMENTATION), _find(peaks, row, MACHINE)
        median = row["median"]
        achieved = flops / median if median > 0 else math.nan
        rows.append(
            {
                **{name: row[name] for name in SPEED_COLUMNS if name in row},
                "images_per_second": row["batch_size"] / median if median > 0 else math.nan,
                "peak_memory": _find(memory, row, IMPLEMENTATION),
                "parameters": _find(sizes, row, MODEL),
                "flops": flops,
                "achieved": achieved,
                "matmul_peak": peak,
                "peak_share": achieved / peak if peak > 0 else math.nan,
            }
        )
    return pd.DataFrame(rows, columns=list(SPEED_COLUMNS)).astype(dict(SPEED_COLUMNS))


def _ratios(frame: pd.DataFrame) -> pd.DataFrame:
    latency = _latest(frame[frame["quantity"] == "latency"])
    memory = _by(frame, "peak_memory", IMPLEMENTATION)
    rows: list[dict[str, Any]] = []
    for _, group in latency.groupby([*SETTING, "comparison", "process"], sort=False):
        references = group[(group["role"] == "reference") & (group["replicate"] == 0)].to_dict("records")
        for subject in group[(group["role"] == "subject") & (group["replicate"] == 0)].to_dict("records"):
            again = group[(group["subject"] == subject["subject"]) & (group["replicate"] == 1)].to_dict("records")
            twin = undisturbed(again[0], subject) if again else None
            floor, note = _floor(undisturbed(subject, subject), twin)
            known = {name: subject[name] for name in (*SETTING, "subject", "comparison", "process", "flag")}
            known["noise_floor"] = floor
            rows += [
                known | _against(subject, reference, twin, floor, note, _over(memory, subject, reference))
                for reference in references
            ]
            if not references:
                rows.append(known | _nothing("no reference was measured with it", subject["flag"]) | {"reference": ""})
    return pd.DataFrame(rows, columns=list(RATIO_COLUMNS)).astype(dict(RATIO_COLUMNS))


def _floor(first: list[float], second: list[float] | None) -> tuple[float, str]:
    """Noise floor in log units and why it is infinite ("" where it isn't)."""
    from harness.statistics.ratios import noise_floor  # scipy: only where there is something to derive

    if second is None:
        return math.inf, "no A/A pair, so no noise floor"
    try:
        return noise_floor(first, second), ""
    except ValueError as error:
        return math.inf, f"no noise floor: {error}"


def _against(
    subject: Mapping[Any, Any],
    reference: Mapping[Any, Any],
    twin: list[float] | None,
    floor: float,
    note: str,
    memory_ratio: float,
) -> dict[str, Any]:
    from harness.statistics.ratios import MINIMUM_ROUNDS, paired_ratio, verdict

    row = {"reference": reference["subject"], "memory_ratio": memory_ratio}
    try:
        estimate = paired_ratio(undisturbed(subject, subject), undisturbed(reference, subject), twin)
    except ValueError as error:
        return _nothing(str(error), subject["flag"]) | row
    if estimate.rounds < MINIMUM_ROUNDS:
        note = f"{estimate.rounds} rounds, and nothing is claimed from fewer than {MINIMUM_ROUNDS}"
    said = NOT_RANKED if subject["flag"] else verdict(estimate, floor)
    found = {"ratio": estimate.ratio, "low": estimate.low, "high": estimate.high, "rounds": estimate.rounds}
    return row | found | {"verdict": said, "note": note}


def undisturbed(row: Mapping[Any, Any], subject: Mapping[Any, Any]) -> list[float]:
    """The row's samples of the rounds in which the machine was left alone, as the subject's row tells."""
    details = subject.get("details")
    disturbed = details.get("disturbed") if isinstance(details, dict) else None
    samples: list[float] = row["samples"]
    if not isinstance(disturbed, list) or not disturbed:
        return samples
    from harness.statistics.ratios import clean  # scipy: only where there is something to derive

    return clean(samples, disturbed)


def _nothing(note: str, flag: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("ratio", "low", "high", "memory_ratio"), math.nan)
    return nothing | {"rounds": 0, "verdict": NOT_RANKED if flag else "cannot tell", "note": note}


def _latest(frame: pd.DataFrame) -> pd.DataFrame:
    """The last row of each implementation in each comparison: a test that was rerun replaces its first attempt."""
    return frame.drop_duplicates([*SETTING, "comparison", "process", "subject", "role", "replicate"], keep="last")


def _over(memory: Mapping[Any, float], subject: Mapping[Any, Any], reference: Mapping[Any, Any]) -> float:
    """Peak memory of the subject over the reference's in the same setting; NaN where either is unknown."""
    ours, theirs = _find(memory, subject, IMPLEMENTATION), _find(memory, reference, IMPLEMENTATION)
    return ours / theirs if theirs > 0 else math.nan


def _by(frame: pd.DataFrame, quantity: str, key: list[str], column: str = "maximum") -> dict[Any, float]:
    """The largest ``column`` of a quantity for every value of ``key``."""
    found: dict[Any, float] = frame[frame["quantity"] == quantity].groupby(key)[column].max().to_dict()
    return found


def _find(found: Mapping[Any, float], row: Mapping[Any, Any], key: list[str]) -> float:
    """The row's amount among those that `_by` found; NaN where it wasn't measured."""
    return found.get(tuple(row[name] for name in key), math.nan)
