"""History: the figures of many runs, one row per run and figure, read without keeping any run's samples.

>>> from reports.frames.history import history
>>> frame = history("results")
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np
import orjson
import pandas as pd

from harness.errors import RunError
from harness.records.runs import Place
from harness.records.schema import SCHEMA

KEYS = (
    "figure",
    "suite",
    "architecture",
    "subject",
    "reference",
    "mode",
    "device",
    "dtype",
    "memory_format",
    "compile",
    "batch_size",
    "input_size",
)
"""What tells one series from another."""
SETTING = ("mode", "device", "dtype", "memory_format", "compile", "batch_size", "input_size")
RATIO, MEMORY, FAILED = "throughput ratio", "peak memory", "failed checks"


def history(results: str = "results") -> pd.DataFrame:
    """One row per run and figure, in the order of time.

    ``results`` is a folder of runs, or any URL that fsspec opens. ``run``, ``started``, ``commit`` and `KEYS`
    (category); ``value`` (float64): of ``throughput ratio`` the subject's throughput over the reference's (median over
    the paired rounds, above 1 is faster), of ``peak memory`` bytes, of ``failed checks`` how many failed or erred (zero
    too). ``attrs["left_out"]`` lists runs that can't be read, and why. Raises RunError where there are no runs.
    """
    left_out: list[str] = []
    codes: list[array[int]] = [array("i") for _ in range(len(KEYS) + 3)]
    names: list[dict[Any, int]] = [{} for _ in codes]
    values = array("d")
    runs = Place(results).runs()
    if not runs:
        raise RunError(f"{results}: it has no runs")
    for run in runs:
        try:
            facts = _facts(run)
            found = list(_figures(run.lines()))
        except (RunError, OSError, ValueError) as error:
            left_out.append(f"{run.name}: {error}")
            continue
        head = (run.name, str(facts.get("started") or run.name), str(facts.get("git_commit") or ""))
        for key, value in found:
            for known, column, name in zip(names, codes, head + key, strict=True):
                column.append(known.setdefault(name, len(known)))
            values.append(value)
    columns = ("run", "started", "commit", *KEYS)
    frame = pd.DataFrame(
        {
            column: pd.Categorical.from_codes(np.asarray(held), categories=pd.Index(list(known)))
            for column, held, known in zip(columns, codes, names, strict=True)
        }
    )
    frame["value"] = values
    frame = frame.sort_values("started", key=lambda s: s.astype(str), kind="stable", ignore_index=True)
    frame.attrs["left_out"] = left_out
    return frame


def _decoded(line: bytes) -> Any:
    """The row of a line: over a million of them, reading JSON is what takes the time."""
    try:
        return orjson.loads(line)
    except ValueError:  # NaN and infinity, which Python's json writes and reads, are no JSON
        return json.loads(line)


def _facts(run: Place) -> Mapping[str, Any]:
    try:
        facts = json.loads(run.read("environment.json"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _figures(lines: Iterator[bytes]) -> Iterator[tuple[tuple[Any, ...], float]]:
    """(key, value) of one run; broken lines are passed over, as a killed run leaves them."""
    timed: dict[tuple[str, int], list[dict[str, Any]]] = {}
    memory: dict[tuple[Any, ...], float] = {}
    judged: dict[tuple[str, str, str], set[str]] = {}
    for line in lines:
        try:
            row = _decoded(line)
            if row["schema"] > SCHEMA:
                raise RunError(f"schema {row['schema']} is newer than {SCHEMA}, the newest known here")
            who = (row["suite"], row["architecture"], row["subject"])
            if row["kind"] == "check":
                wrong = judged.setdefault(who, set())
                if row["outcome"] in ("failed", "error"):
                    wrong.add(row["check"])
            elif row["quantity"] == "latency":
                timed.setdefault((row["comparison"], row.get("process", 0)), []).append(row)
            elif row["quantity"] == "peak_memory" and row["role"] == "subject":
                key = (MEMORY, *who, "", *_setting(row))
                memory[key] = max(memory.get(key, 0.0), *map(float, row["samples"]))
        except (ValueError, TypeError, KeyError):
            continue
    blank = ("",) * 5 + (0, 0)
    yield from (((FAILED, *who, "", *blank), float(len(wrong))) for who, wrong in judged.items())
    yield from memory.items()
    ratios: dict[tuple[Any, ...], list[float]] = {}
    for group in timed.values():
        references = [row for row in group if row["role"] == "reference"]
        for row in group:
            if row["role"] == "subject" and not row.get("replicate") and not row.get("flag"):
                for other in references:
                    key = (RATIO, row["suite"], row["architecture"], row["subject"], other["subject"], *_setting(row))
                    ratios.setdefault(key, []).extend(_log_ratios(row["samples"], other["samples"]))
    yield from ((key, math.exp(median(logs))) for key, logs in ratios.items() if logs)


def _setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name, "") for name in SETTING)


def _log_ratios(subject: list[float], reference: list[float]) -> list[float]:
    pairs = zip(subject, reference, strict=False)  # a killed run may have a round less of the one
    return [math.log(other / own) for own, other in pairs if own > 0 and other > 0]
