"""What changed between two runs, and how sure that is: one verdict per time, peak memory, count and check.

Times are judged as the ratio to the same reference measured in the same rounds, so that runs of different machines
compare. Where both runs measured in several processes, the processes are the samples (a process's layout in memory
biases all of its rounds alike) and the test is Mann and Whitney's; else the samples are the rounds of the one process.
Benjamini and Hochberg's procedure over all rows keeps the share of false claims among the claims under 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from harness.errors import RunError
from harness.statistics.changes import Change, between_processes, within_processes
from reports.comparison.run_comparison import Comparison, compare
from reports.drawing.units import count
from reports.frames.ratios import SETTING, ratios
from reports.frames.run import Run

Kind = Literal["time", "memory", "flops", "parameters", "conformance"]

FALSE_CLAIMS = 0.05
"""Expected share of claims that are false, over all rows of a comparison."""
TOLERANCE = {"cpu": 0.001, "cuda": 0.01}
"""Relative change of peak memory that is none: the CPU's is counted to the byte, the GPU's allocator rounds up, and
libraries there choose their workspace by what is free."""
DECISIVE = ("device", "cpu", "gpu", "cores", "threads", "torch")
"""Facts of the environment without which absolute figures can't be compared."""
WORSE = ("slower", "larger", "newly failing")
BETTER = ("faster", "smaller", "newly passing")
NOTHING = "no difference seen"
UNKNOWN = "cannot tell"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One row: what was compared, both figures, the change, and what may be said of it."""

    kind: Kind
    suite: str
    architecture: str
    subject: str
    what: str
    """The setting, or the check's name."""
    reference: str = ""
    before: float | str = math.nan
    after: float | str = math.nan
    change: float = math.nan
    """After over before; of a time it is the throughput's, so that above 1 is faster."""
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    """Probability of a change at least as large were there none."""
    q: float = math.nan
    """``p`` adjusted for the number of rows."""
    verdict: str
    why: str = ""

    @property
    def regression(self) -> bool:
        """Whether it got worse."""
        return self.verdict in WORSE

    @property
    def changed(self) -> bool:
        """Whether it got worse, better or otherwise different."""
        return self.verdict not in (NOTHING, UNKNOWN)


def judge(before: Run, after: Run) -> list[Judgement]:
    """Every row that the runs have in common, and checks that only one has.

    Raises RunError where a run is empty, or where they have nothing in common.
    """
    for run in (before, after):
        if not len(run.checks) and not len(run.measurements):
            raise RunError(f"run {run.id}: it is empty, there is nothing to compare")
    rows = [
        *_adjusted(list(_times(before, after))),
        *_amounts(before, after, "peak_memory", "memory"),
        *_amounts(before, after, "flops", "flops"),
        *_amounts(before, after, "parameters", "parameters"),
    ]
    found = compare(before, after)
    checks = list(_checks(found))
    if not rows and all(c.before == "" or c.after == "" for c in checks):
        raise RunError(f"runs {before.id} and {after.id}: no check and no measurement in common")
    return [*checks, *rows]


def differences(before: Run, after: Run) -> list[str]:
    """Sentences about differences of the environments that matter."""
    said = []
    for fact in DECISIVE:
        first, second = before.environment.get(fact), after.environment.get(fact)
        if first != second:
            said.append(f"{fact}: {first if first is not None else 'not known'} before, {second} now")
    return said


def _times(before: Run, after: Run) -> Iterator[Judgement]:
    key = [*SETTING, "subject", "reference"]
    first, second = (_grouped(ratios(run), key) for run in (before, after))
    comparable = not differences(before, after)
    for where in [w for w in first if w in second]:
        old, new = first[where], second[where]
        known = dict(zip(key, where, strict=True))
        row = _named("time", known, reference=known["reference"])
        flag = next((r["flag"] for r in (*new, *old) if r["flag"]), "")
        if flag:
            yield replace(row, verdict=UNKNOWN, why=f"not ranked: {flag}")
            continue
        if not known["reference"]:
            yield _absolute(row, before, after, known, comparable)
            continue
        yield _claimed(row, _estimate(old, new))


def _estimate(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> Change:
    """The change of the ratio, from processes where there are enough of them, else from rounds."""
    found = between_processes([r["ratio"] for r in old], [r["ratio"] for r in new])
    return found if found is not None else within_processes(old[-1], new[-1])


def _absolute(row: Judgement, before: Run, after: Run, known: Mapping[str, Any], comparable: bool) -> Judgement:
    """A time without a reference in common: process against process, on the same machine only."""
    if not comparable:
        return replace(row, verdict=UNKNOWN, why="no reference in common, and the environments differ")
    speeds = [_medians(run, known) for run in (before, after)]
    found = between_processes(*speeds)
    if found is None:
        return replace(row, verdict=UNKNOWN, why="no reference in common, and too few processes (--repeats)")
    return _claimed(row, found)


def _medians(run: Run, known: Mapping[str, Any]) -> list[float]:
    """Batches per second in each process."""
    frame = run.measurements
    keep = (frame["quantity"] == "latency") & (frame["replicate"] == 0) & (frame["role"] == "subject")
    for name in (*SETTING, "subject"):
        keep &= frame[name] == known[name]
    last = frame[keep].drop_duplicates(["process"], keep="last")
    return [1 / m for m in last["median"] if m > 0]


def _claimed(row: Judgement, found: Change) -> Judgement:
    row = replace(
        row, before=found.before, after=found.after, change=found.change, low=found.low, high=found.high, p=found.p
    )
    if found.why:
        return replace(row, verdict=UNKNOWN, why=found.why)
    excluded = not found.low <= 1 <= found.high
    if not excluded or abs(math.log(found.change)) <= found.floor:
        return replace(row, verdict=NOTHING)
    return replace(row, verdict="faster" if found.change > 1 else "slower")


def _adjusted(rows: list[Judgement]) -> list[Judgement]:
    """Benjamini and Hochberg's step-up over all rows that have a p; a claim with q over the rate is withdrawn."""
    tested = [i for i, row in enumerate(rows) if math.isfinite(row.p)]
    if not tested:
        return rows
    from scipy import stats  # half a second, for those who compare only

    for i, q in zip(tested, stats.false_discovery_control([rows[i].p for i in tested]), strict=True):
        row = replace(rows[i], q=float(q))
        if row.changed and q > FALSE_CLAIMS:
            row = replace(row, verdict=NOTHING, why=f"one of {len(tested)} rows: q = {q:.2g}")
        rows[i] = row
    return rows


def _amounts(before: Run, after: Run, quantity: str, kind: Kind) -> Iterator[Judgement]:
    """Peaks and counts of subjects, which are no matter of chance: the ranges of the samples must not meet."""
    key = [*SETTING, "subject"] if kind != "parameters" else ["suite", "architecture", "subject"]
    first, second = (_grouped(_own(run, quantity), key) for run in (before, after))
    for where in [w for w in first if w in second]:
        known = dict(zip(key, where, strict=True))
        old, new = (_range(rows) for rows in (first[where], second[where]))
        row = replace(_named(kind, known), before=old[1], after=new[1])
        if not all(math.isfinite(v) for v in (*old, *new)) or min(old[1], new[1]) <= 0:
            same = old == new
            yield replace(row, verdict=NOTHING if same else UNKNOWN, why="" if same else "an amount of nothing")
            continue
        slack = TOLERANCE.get(str(known.get("device", "")).partition(":")[0], 0.0) if kind == "memory" else 0.0
        verdict = NOTHING
        if new[0] > old[1] * (1 + slack):
            verdict = "larger"
        elif new[1] < old[0] * (1 - slack):
            verdict = "smaller"
        yield replace(row, change=new[1] / old[1], verdict=verdict)


def _own(run: Run, quantity: str) -> pd.DataFrame:
    frame = run.measurements
    return frame[(frame["quantity"] == quantity) & (frame["role"] == "subject") & (frame["replicate"] == 0)]


def _range(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    values = [v for row in rows for v in row["samples"]]
    return min(values), max(values)


def _checks(found: Comparison) -> Iterator[Judgement]:
    """A row per check that changed, and one for all that did not."""
    if found.unchanged:
        what = f"{count(found.unchanged, 'check')} as before"
        yield Judgement(kind="conformance", suite="", architecture="all", subject="all", what=what, verdict=NOTHING)
    for row in found.checks.to_dict("records"):
        skipped = {row["before"], row["after"]} == {"passed", "skipped"}  # not run, which is neither right nor wrong
        verdict = UNKNOWN if skipped else str(row["change"])
        yield Judgement(
            kind="conformance",
            suite=row["suite"],
            architecture=row["architecture"],
            subject=row["subject"],
            what=row["check"],
            before=row["before"],
            after=row["after"],
            verdict=verdict,
            why=str(row["message"]).partition("\n")[0][:300],
        )


def _named(kind: Kind, known: Mapping[str, Any], reference: str = "") -> Judgement:
    return Judgement(
        kind=kind,
        suite=known["suite"],
        architecture=known["architecture"],
        subject=known["subject"],
        what=_setting(known) if "mode" in known else kind,
        reference=reference,
        verdict=UNKNOWN,
    )


def _setting(known: Mapping[str, Any]) -> str:
    """A setting in words: what everyone wants to know, and whatever isn't the default."""
    parts = [known["mode"], f"batch {known['batch_size']}", f"{known['input_size']} px", known["device"]]
    parts += [known[n] for n, usual in (("dtype", "float32"), ("memory_format", "contiguous")) if known[n] != usual]
    return ", ".join([*parts, *([f"compiled ({known['compile']})"] if known["compile"] else [])])


def _grouped(frame: pd.DataFrame, key: list[str]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in frame.to_dict("records"):
        found.setdefault(tuple(row[name] for name in key), []).append({str(k): v for k, v in row.items()})
    return found
