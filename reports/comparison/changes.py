"""What changed between two runs, and how sure that is: one verdict per time, peak memory, count and check.

Times are judged as the ratio to the same reference measured in the same rounds, so that runs of different machines
compare. Where both runs measured in several processes, the processes are the samples (a process's layout in memory
biases all of its rounds alike) and the test is Mann and Whitney's; else the samples are the rounds of the one process.
Benjamini and Hochberg's procedure over all rows keeps the share of false claims among the claims under 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import pandas as pd

from harness.errors import RunError
from harness.statistics.changes import (
    FALSE_CLAIMS,
    Change,
    adjusted,
    apart,
    between_processes,
    within_processes,
)
from reports.drawing.units import count
from reports.frames.ratios import SETTING, ratios
from reports.frames.run import Run, worst

Kind = Literal["time", "memory", "flops", "parameters", "conformance"]

TOLERANCE = {"cpu": 0.001, "cuda": 0.01}
"""Relative change of peak memory that is none: the CPU's is counted to the byte, the GPU's allocator rounds up, and
libraries there choose their workspace by what is free."""
DECISIVE = ("device", "cpu", "gpu", "cores", "threads", "torch")
"""Facts of the environment without which absolute figures can't be compared."""
PRIVATE_FACTS = ("started", "finished")
"""Facts that differ between any two runs and say nothing."""
WORSE = ("newly failing", "slower", "larger")
BETTER = ("newly passing", "faster", "smaller")
NOTHING = "no difference seen"
UNKNOWN = "cannot tell"
ORDER = (*WORSE, *BETTER, NOTHING, UNKNOWN)
"""Verdicts as they are listed; others (gone, new, changed) come last."""
CHECK = ["suite", "architecture", "subject", "check"]
BAD = ("failed", "error", "xfailed")


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
    flag: str = ""
    """Why the subject must not be ranked."""
    floor: float = math.nan
    """Smallest change, in log units, that the two runs could have seen, where their rounds are compared."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """``mode``, ``device`` and so on, where it was measured in one."""

    @property
    def regression(self) -> bool:
        """Whether it got worse."""
        return self.verdict in WORSE

    @property
    def changed(self) -> bool:
        """Whether it got worse, better or otherwise different."""
        return self.verdict not in (NOTHING, UNKNOWN)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Two runs and every row that they have in common, and checks that only one has."""

    before: Run
    after: Run
    rows: tuple[Judgement, ...]

    @property
    def sentence(self) -> str:
        """The comparison in one line."""
        tally = Counter(row.verdict for row in self.rows)
        said = [f"{number} {verdict}" for verdict, number in sorted(tally.items(), key=lambda item: rank(item[0]))]
        worse = count(sum(row.regression for row in self.rows), "regression")
        return f"{worse}: {', '.join(said) or 'nothing to compare'}"

    def frame(self, *kinds: Kind) -> pd.DataFrame:
        """The rows of these kinds with the fields of `Judgement`; each part of the setting is a column."""
        plain = [f.name for f in fields(Judgement) if f.name != "setting"]
        rows = [
            {name: getattr(row, name) for name in plain} | {name: row.setting.get(name, "") for name in SETTING[2:]}
            for row in self.rows
            if row.kind in kinds
        ]
        return pd.DataFrame(rows, columns=[*plain, *SETTING[2:]])


def compare(before: Run, after: Run) -> Comparison:
    """Every change from one run to the other, checks first."""
    rows = [
        *_checks(before, after),
        *_without_chance(list(_times(before, after))),
        *_amounts(before, after, "peak_memory", "memory"),
        *_amounts(before, after, "flops", "flops"),
        *_amounts(before, after, "parameters", "parameters"),
    ]
    return Comparison(before=before, after=after, rows=tuple(rows))


def expect_common(comparison: Comparison) -> None:
    """Raises RunError where a run is empty, or the runs have nothing in common."""
    before, after = comparison.before, comparison.after
    for run in (before, after):
        if not len(run.checks) and not len(run.measurements):
            raise RunError(f"run {run.id}: it is empty, there is nothing to compare")
    if all(row.kind == "conformance" and "" in (row.before, row.after) for row in comparison.rows):
        raise RunError(f"runs {before.id} and {after.id}: no check and no measurement in common")


def rank(verdict: str) -> int:
    """Its place in `ORDER`."""
    return ORDER.index(verdict) if verdict in ORDER else len(ORDER)


def differing_facts(before: Run, after: Run) -> dict[str, tuple[str, str]]:
    """What differs between the environments but for the times, in words: before and after."""
    found = {}
    for fact in dict.fromkeys([*after.environment, *before.environment]):
        first, second = before.environment.get(fact), after.environment.get(fact)
        if fact not in PRIVATE_FACTS and first != second:
            found[fact] = ("not known" if first is None else str(first), "not known" if second is None else str(second))
    return found


def differences(before: Run, after: Run) -> list[str]:
    """Sentences about differences of the environments that matter."""
    found = differing_facts(before, after)
    return [f"{fact}: {found[fact][0]} before, {found[fact][1]} now" for fact in DECISIVE if fact in found]


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
            yield replace(row, verdict=UNKNOWN, why=f"not ranked: {flag}", flag=flag)
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
    figures = {
        name: getattr(found, name) for name in ("before", "after", "change", "low", "high", "p", "verdict", "why")
    }
    return replace(row, **figures, floor=found.floor or math.nan)


def _without_chance(rows: list[Judgement]) -> list[Judgement]:
    """The rows with their q over all that were tested; a claim that chance would bring too is withdrawn."""
    made = [replace(row, q=q) for row, q in zip(rows, adjusted([row.p for row in rows]), strict=True)]
    tested = sum(math.isfinite(row.q) for row in made)
    return [
        replace(row, verdict=NOTHING, why=f"one of {tested} rows: q = {row.q:.2g}")
        if row.changed and row.q > FALSE_CLAIMS
        else row
        for row in made
    ]


def _amounts(before: Run, after: Run, quantity: str, kind: Kind) -> Iterator[Judgement]:
    """Peaks and counts of subjects, which are no matter of chance: the ranges of the samples must not meet."""
    key = [*SETTING, "subject"] if kind != "parameters" else ["suite", "architecture", "subject"]
    first, second = (_grouped(_own(run, quantity), key) for run in (before, after))
    for where in [w for w in first if w in second]:
        known = dict(zip(key, where, strict=True))
        old, new = ([v for row in rows for v in row["samples"]] for rows in (first[where], second[where]))
        row = replace(_named(kind, known), before=max(old), after=max(new))
        if not all(map(math.isfinite, (*old, *new))) or min(max(old), max(new)) <= 0:
            same = (min(old), max(old)) == (min(new), max(new))
            yield replace(row, verdict=NOTHING if same else UNKNOWN, why="" if same else "an amount of nothing")
            continue
        device = str(known.get("device", "")).partition(":")[0]
        way = apart(old, new, TOLERANCE.get(device, 0.0) if kind == "memory" else 0.0)
        yield replace(row, change=max(new) / max(old), verdict=(NOTHING, "larger", "smaller")[way])


def _own(run: Run, quantity: str) -> pd.DataFrame:
    frame = run.measurements
    return frame[(frame["quantity"] == quantity) & (frame["role"] == "subject") & (frame["replicate"] == 0)]


def _checks(before: Run, after: Run) -> Iterator[Judgement]:
    """A row for all checks that came out as before, and one for each that did not."""
    columns = [*CHECK, "outcome", "message"]
    first, second = (worst(run.checks)[columns] for run in (before, after))
    both = first.merge(second, on=CHECK, how="outer", suffixes=("_before", "_after")).fillna("")
    rows = []
    for row in both.to_dict("records"):
        old, new = row["outcome_before"], row["outcome_after"]
        rows.append(
            Judgement(
                kind="conformance",
                suite=row["suite"],
                architecture=row["architecture"],
                subject=row["subject"],
                what=row["check"],
                before=old,
                after=new,
                verdict=_check_verdict(old, new),
                why=str(row["message_after"]).partition("\n")[0][:300],
            )
        )
    changed = [row for row in rows if row.before != row.after]
    if len(rows) > len(changed):
        what = f"{count(len(rows) - len(changed), 'check')} as before"
        yield Judgement(kind="conformance", suite="", architecture="all", subject="all", what=what, verdict=NOTHING)
    order = ("newly failing", "newly passing", "gone", "new")
    yield from sorted(changed, key=lambda row: order.index(row.verdict) if row.verdict in order else len(order))


def _check_verdict(before: str, after: str) -> str:
    if before == after:
        return NOTHING
    if {before, after} == {"passed", "skipped"}:
        return UNKNOWN  # not run, which is neither right nor wrong
    if after in ("failed", "error") and before not in ("failed", "error"):
        return "newly failing"
    if not before:
        return "new"
    if not after:
        return "gone"
    return "newly passing" if after == "passed" and before in BAD else "changed"


def _named(kind: Kind, known: Mapping[str, Any], reference: str = "") -> Judgement:
    return Judgement(
        kind=kind,
        suite=known["suite"],
        architecture=known["architecture"],
        subject=known["subject"],
        what=_setting(known) if "mode" in known else kind,
        reference=reference,
        verdict=UNKNOWN,
        setting={name: known[name] for name in SETTING[2:] if name in known},
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
