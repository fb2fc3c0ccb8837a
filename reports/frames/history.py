"""History: the figures of many runs, one row per run and figure, read without keeping any run's samples.

>>> from reports.frames.history import history
>>> frame = history("results")
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import RunError
from harness.records.codec import RowReader
from harness.records.runs import RECORDS, Place
from harness.records.verdicts import BAD
from harness.statistics.levels import levels
from reports.frames.ratios import SETTING, undisturbed

KEYS = ("figure", "suite", "architecture", "subject", "reference", *SETTING[2:])
"""What tells one series from another."""
UNKNOWN = ("",) * len(SETTING)
RATIO, MEMORY, FAILED = "throughput ratio", "peak memory", "failed checks"


def history(results: str = "results") -> pd.DataFrame:
    """One row per run and figure, in the order of time.

    ``results`` is a folder of runs, or any URL that fsspec opens. ``run``, ``started``, ``commit`` and `KEYS`
    (category); ``value`` (float64): of ``throughput ratio`` the ratio of `reports.frames.ratios` (above 1 is faster;
    of several processes the median), of ``peak memory`` bytes, of ``failed checks`` how many failed or erred (zero
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
        for before, after in pairwise(levels(known[value].to_numpy(dtype=np.float64))):
            run, previous = known.iloc[after.start], known.iloc[after.start - 1]
            found.append(
                dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
                | {name: run[name] for name in ("run", "started", "commit")}
                | {"previous": previous["run"], "before": before.median, "after": after.median}
                | {"change": after.median / before.median, "runs": after.end - after.start}
            )
    columns = [*keys, "run", "started", "commit", "previous", "before", "after", "change", "runs"]
    return pd.DataFrame(found, columns=columns)


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
            key = (MEMORY, row["suite"], row["architecture"], row["subject"], "", *_where(row)[2:])
            memory[key] = max(memory.get(key, 0.0), *row["samples"])
    blank = ("",) * 5 + (0, 0)
    yield from (((FAILED, *who, "", *blank), float(len(wrong))) for who, wrong in judged.items())
    yield from memory.items()
    yield from _ratios(timed.values())


def _ratios(groups: Iterable[list[dict[str, Any]]]) -> Iterator[tuple[tuple[Any, ...], float]]:
    """(key, value) of each subject and reference that were measured together; flagged subjects are left out."""
    from harness.statistics.ratios import point_ratios  # scipy: only where there is something to derive

    batches: dict[tuple[int, int], list[tuple[tuple[Any, ...], list[list[float]]]]] = {}
    for group in groups:
        # A test that was rerun replaces its first attempt.
        latest = {
            (_where(row), row.get("role", "subject"), row["subject"], row.get("replicate", 0)): row for row in group
        }
        references = [key for key in latest if key[1] == "reference" and not key[3]]
        for (where, role, name, replicate), row in latest.items():
            if role != "subject" or replicate or row.get("flag"):
                continue
            twin = latest.get((where, role, name, 1))
            own = [undisturbed(each, row) for each in (row, twin) if each is not None]
            for reference in references:
                other = undisturbed(latest[reference], row)
                if reference[0] != where or any(len(times) != len(other) for times in own):
                    continue  # a killed run may have a round less of one
                key = (RATIO, *where[:2], name, reference[2], *where[2:])
                batches.setdefault((len(other), len(own)), []).append((key, [own[0], other, *own[1:]]))
    found: dict[tuple[Any, ...], list[float]] = {}
    for batch in batches.values():
        columns = zip(*(times for _, times in batch), strict=True)
        for (key, _), ratio in zip(batch, point_ratios(*columns), strict=True):
            if math.isfinite(ratio):
                found.setdefault(key, []).append(ratio)
    yield from ((key, median(ratios)) for key, ratios in found.items())


def _where(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Suite, architecture and setting."""
    return tuple(map(row.get, SETTING, UNKNOWN))
