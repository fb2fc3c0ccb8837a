"""Two runs side by side: what broke, what was mended, what got faster, slower, larger or smaller, and what differs.

Speeds are compared as ratios to the same reference measured in the same rounds, so that runs of different machines
can be compared; absolute times never are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.drawing.units import count
from reports.frames.ratios import NOT_RANKED, SETTING, ratios
from reports.frames.run import Run, worst

CHECK_KEY = ["suite", "architecture", "subject", "check"]
SPEED_KEY = [*SETTING, "subject", "reference"]
MEMORY_KEY = [*SETTING, "subject", "role"]
ORDER = ("newly failing", "newly passing", "gone", "new", "changed")
BAD = ("failed", "error", "xfailed")
PRIVATE_FACTS = ("started", "finished")
"""Facts that differ between any two runs and say nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What changed from ``before`` to ``after``.

    ``checks``: suite, architecture, subject, check, before, after (outcomes, "" where it was not run), change (newly
    failing, newly passing, new, gone, changed), message (the later run's). ``speeds``: setting, subject, reference,
    ratio_before, ratio_after, change (after / before), low, high (95 %), floor (log units), verdict (faster, slower,
    no difference seen, cannot tell, not ranked), note. ``memory``: setting, subject, before, after (byte, largest
    seen), change (after / before), verdict (larger, smaller, same). ``environment``: fact, before, after.
    Unchanged checks are left out of ``checks``; ``unchanged`` counts them.
    """

    before: Run
    after: Run
    checks: pd.DataFrame
    unchanged: int
    speeds: pd.DataFrame
    memory: pd.DataFrame
    environment: pd.DataFrame

    @property
    def sentence(self) -> str:
        """The comparison in one sentence."""
        tally = self.checks["change"].value_counts()
        speed = self.speeds["verdict"].value_counts()
        memory = self.memory["verdict"].value_counts()
        clauses = [f"{tally[change]} {change}" for change in ORDER if change in tally]
        said = f"{', '.join(clauses)} ({count(self.unchanged, 'check')} unchanged)" if clauses else ""
        said = said or (f"All {count(self.unchanged, 'check')} as before" if self.unchanged else "No check in common")
        if len(self.speeds):
            named = {"faster": "faster", "slower": "slower", "no difference seen": "without a change seen"}
            judged = [f"{speed.get(verdict, 0)} {words}" for verdict, words in named.items()]
            rest = len(self.speeds) - sum(int(speed.get(verdict, 0)) for verdict in named)
            said += f"; {', '.join(judged)}" + (f", {rest} not judged" if rest else "")
        if len(self.memory):
            said += f"; {memory.get('larger', 0)} with more memory, {memory.get('smaller', 0)} with less"
        return said + "."


def compare(before: Run, after: Run) -> Comparison:
    """Compare two runs; see `Comparison` for the frames."""
    checks, unchanged = _checks(before, after)
    return Comparison(
        before=before,
        after=after,
        checks=checks,
        unchanged=unchanged,
        speeds=_speeds(before, after),
        memory=_memory(before, after),
        environment=_environment(before.environment, after.environment),
    )


def _checks(before: Run, after: Run) -> tuple[pd.DataFrame, int]:
    columns = [*CHECK_KEY, "outcome", "message"]
    both = worst(before.checks)[columns].merge(
        worst(after.checks)[columns], on=CHECK_KEY, how="outer", suffixes=("_before", "_after")
    )
    rows, unchanged = [], 0
    for row in both.fillna("").to_dict("records"):
        change = _change(row["outcome_before"], row["outcome_after"])
        if not change:
            unchanged += 1
            continue
        rows.append(
            {name: row[name] for name in CHECK_KEY}
            | {"before": row["outcome_before"], "after": row["outcome_after"], "change": change}
            | {"message": row["message_after"]}
        )
    rows.sort(key=lambda row: ORDER.index(row["change"]))
    return pd.DataFrame(rows, columns=[*CHECK_KEY, "before", "after", "change", "message"]), unchanged


def _change(before: str, after: str) -> str:
    if before == after:
        return ""
    if not before:
        return "newly failing" if after in ("failed", "error") else "new"
    if not after:
        return "gone"
    if after in ("failed", "error") and before not in ("failed", "error"):
        return "newly failing"
    if after == "passed" and before in BAD:
        return "newly passing"
    return "changed"


def _speeds(before: Run, after: Run) -> pd.DataFrame:
    columns = [*SPEED_KEY, "ratio", "low", "high", "noise_floor", "rounds", "flag"]
    first, second = (_last(ratios(run), SPEED_KEY)[columns] for run in (before, after))
    both = first.merge(second, on=SPEED_KEY, suffixes=("_before", "_after"))
    rows = [_speed(row, before.environment, after.environment) for row in both.to_dict("records")]
    found = ["ratio_before", "ratio_after", "change", "low", "high", "floor", "verdict", "flag", "note"]
    return pd.DataFrame(rows, columns=[*SPEED_KEY, *found])


def _speed(row: Mapping[Any, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The change of one ratio.

    Its interval puts the two together as independent estimates: the distance from the change to its lower bound is
    the hypotenuse of the later run's distance to its lower and the earlier run's to its upper bound (Zou and Donner
    2008). Each run may be off by its own noise floor, in opposite directions: the floor of the change is their sum.
    """
    from harness.statistics.ratios import RatioEstimate, verdict

    found = {name: row[name] for name in SPEED_KEY}
    found |= {"ratio_before": row["ratio_before"], "ratio_after": row["ratio_after"]}
    found["flag"] = row["flag_after"] or row["flag_before"]
    found["floor"] = row["noise_floor_before"] + row["noise_floor_after"]
    found["note"] = _reference_note(row["reference"], before, after)
    first, second = (_logs(row, when) for when in ("before", "after"))
    if first is None or second is None:
        nothing = dict.fromkeys(("change", "low", "high"), math.nan)
        return found | nothing | {"verdict": NOT_RANKED if found["flag"] else "cannot tell"}
    change = second[1] - first[1]
    low = change - math.hypot(second[1] - second[0], first[2] - first[1])
    high = change + math.hypot(second[2] - second[1], first[1] - first[0])
    estimate = RatioEstimate(
        ratio=math.exp(change),
        low=math.exp(low),
        high=math.exp(high) if high < 700 else math.inf,
        rounds=int(min(row["rounds_before"], row["rounds_after"])),
    )
    said = NOT_RANKED if found["flag"] else verdict(estimate, found["floor"])
    return found | {"change": estimate.ratio, "low": estimate.low, "high": estimate.high, "verdict": said}


def _logs(row: Mapping[Any, Any], when: str) -> tuple[float, float, float] | None:
    """(low, ratio, high) in log units; None where there is no ratio."""
    low, ratio, high = (row[f"{name}_{when}"] for name in ("low", "ratio", "high"))
    if math.isnan(ratio) or ratio <= 0 or not math.isfinite(ratio):
        return None
    return (
        math.log(low) if low > 0 else -math.inf,
        math.log(ratio),
        math.log(high) if math.isfinite(high) else math.inf,
    )


def _reference_note(reference: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    library = reference.partition(".")[0]
    first, second = before.get(library), after.get(library)
    if first == second or first is None or second is None:
        return ""
    return f"{library} went from {first} to {second}: the change may be the reference's"


def _memory(before: Run, after: Run) -> pd.DataFrame:
    frames = []
    for run in (before, after):
        frame = run.measurements
        peak = frame[(frame["quantity"] == "peak_memory") & (frame["role"] == "subject") & (frame["replicate"] == 0)]
        peak = _last(peak, MEMORY_KEY)
        lowest = peak["samples"].map(min).astype("float64")
        frames.append(peak.assign(minimum=lowest)[[*MEMORY_KEY, "minimum", "maximum", "flag"]])
    both = frames[0].merge(frames[1], on=MEMORY_KEY, suffixes=("_before", "_after"))
    rows = []
    for row in both.to_dict("records"):
        # Larger or smaller only where not even the ranges of the samples meet.
        verdict = "same"
        if row["minimum_after"] > row["maximum_before"]:
            verdict = "larger"
        elif row["maximum_after"] < row["minimum_before"]:
            verdict = "smaller"
        rows.append(
            {name: row[name] for name in MEMORY_KEY}
            | {"before": row["maximum_before"], "after": row["maximum_after"], "verdict": verdict}
            | {"change": row["maximum_after"] / row["maximum_before"] if row["maximum_before"] > 0 else math.nan}
        )
    return pd.DataFrame(rows, columns=[*MEMORY_KEY, "before", "after", "change", "verdict"])


def _last(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    return frame.drop_duplicates(key, keep="last")


def _environment(before: Mapping[str, Any], after: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for fact in dict.fromkeys([*after, *before]):
        first, second = before.get(fact), after.get(fact)
        if fact not in PRIVATE_FACTS and first != second:
            rows.append({"fact": fact, "before": _text(first), "after": _text(second)})
    return pd.DataFrame(rows, columns=["fact", "before", "after"])


def _text(value: Any) -> str:
    return "not known" if value is None else str(value)
