"""History: the figures of many runs, one row per run and figure, read without keeping any run's samples.

>>> from reports.frames.history import history
>>> frame = history("results")
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import RunError
from harness.records.codec import RowReader
from harness.records.runs import RECORDS, Place
from harness.records.verdicts import BAD

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
    runs: list[tuple[str, str, str]] = []
    keys: dict[tuple[Any, ...], int] = {}
    of_run, of_key, values = array("i"), array("i"), array("d")
    places = Place(results).runs()
    if not places:
        raise RunError(f"{results}: it has no runs")
    for place in places:
        facts, _ = place.environment()
        try:
            found = dict(_figures(RowReader(place.read(RECORDS).split(b"\n"))))
        except (RunError, OSError, ValueError) as error:
            left_out.append(f"{place.name}: {error}")
            continue
        of_run.extend([len(runs)] * len(found))
        of_key.extend([keys.setdefault(key, len(keys)) for key in found])
        values.extend(found.values())
        runs.append((place.name, str(facts.get("started") or place.name), str(facts.get("git_commit") or "")))
    rank = np.argsort(np.argsort([started for _, started, _ in runs], kind="stable"), kind="stable")
    order = np.argsort(rank[np.asarray(of_run)], kind="stable")
    columns = _columns(("run", "started", "commit"), runs, np.asarray(of_run)[order])
    columns |= _columns(KEYS, list(keys), np.asarray(of_key)[order])
    frame = pd.DataFrame({**columns, "value": np.asarray(values)[order]})
    frame.attrs["left_out"] = left_out
    return frame


def _columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]], chosen: NDArray[np.intc]) -> dict[str, Any]:
    """The columns of a table that has the ``chosen`` of these rows, which are few, one after the other."""
    made = {}
    for number, name in enumerate(names):
        known: dict[Any, int] = {}
        codes = np.asarray([known.setdefault(row[number], len(known)) for row in rows], dtype=np.intc)
        made[name] = pd.Categorical.from_codes(codes[chosen], categories=pd.Index(list(known)))
    return made


def _figures(reader: RowReader) -> Iterator[tuple[tuple[Any, ...], float]]:
    """(key, value) of one run; what its page calls corrupt is passed over, as a killed run leaves it."""
    timed: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    memory: dict[tuple[Any, ...], float] = {}
    judged: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for row in reader.rows():
        if row["kind"] == "check":
            wrong = judged[row["suite"], row["architecture"], row["subject"]]
            if row["outcome"] in BAD:
                wrong.add(row["check"])
        elif row["quantity"] == "latency":
            timed[row["comparison"], row.get("process", 0)].append(row)
        elif row["quantity"] == "peak_memory" and row.get("role", "subject") == "subject":
            key = (MEMORY, row["suite"], row["architecture"], row["subject"], "", *_setting(row))
            memory[key] = max(memory.get(key, 0.0), *row["samples"])
    blank = ("",) * 5 + (0, 0)
    yield from (((FAILED, *who, "", *blank), float(len(wrong))) for who, wrong in judged.items())
    yield from memory.items()
    ratios: dict[tuple[Any, ...], list[float]] = {}
    for group in timed.values():
        references = [row for row in group if row.get("role", "subject") == "reference"]
        for row in group:
            if row.get("role", "subject") == "subject" and not row.get("replicate") and not row.get("flag"):
                for other in references:
                    key = (RATIO, row["suite"], row["architecture"], row["subject"], other["subject"], *_setting(row))
                    ratios.setdefault(key, []).extend(_log_ratios(row["samples"], other["samples"]))
    yield from ((key, math.exp(median(logs))) for key, logs in ratios.items() if logs)


def _setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(map(row.get, SETTING, repeat("")))


def _log_ratios(subject: list[float], reference: list[float]) -> list[float]:
    pairs = zip(subject, reference, strict=False)  # a killed run may have a round less of the one
    return [math.log(other / own) for own, other in pairs if own > 0 and other > 0]
