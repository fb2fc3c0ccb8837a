"""Which columns of which frame the page's tables show, under which headings."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports import amounts
from reports.compare import Comparison
from reports.mutants import Strength
from reports.tables import Column, Table, table

KILLS = (
    "Each faulty variant (row) and the checks that rejected it. A row without the colour of its expected check is a "
    "gap; a column that is nowhere the expected check guards nothing of its own. No unit."
)
LOOKS = {
    "faster": "good",
    "slower": "bad",
    "smaller": "good",
    "larger": "bad",
    "newly failing": "bad",
    "newly passing": "good",
    "survived": "bad",
    "killed": "good",
    "killed by another check only": "bad",
    "not ranked": "flagged",
}
WHAT = (Column(label="architecture", field="architecture"), Column(label="mode", field="mode"))
WHERE = (
    Column(label="batch", field="batch_size", numeric=True),
    Column(label="pixels", field="input_size", numeric=True),
    Column(label="device", field="device"),
    Column(label="dtype", field="dtype"),
)


def speed_tables(ratios: pd.DataFrame, speeds: pd.DataFrame) -> list[Table]:
    """Ratios, throughput and latency, memory and arithmetic; those that have rows."""
    implementation = Column(label="implementation", field="subject")
    several = speeds.loc[speeds["role"] == "subject", "subject"].nunique() > 1
    tables = [
        table(
            "ratios",
            "Subject over reference: throughput with its 95 % interval (above 1 is faster), memory (below 1 is less)",
            ratios.assign(interval=_intervals(ratios), remark=_remarks(ratios)),
            (
                Column(label="subject", field="subject"),
                *WHAT,
                Column(label="reference", field="reference", write=lambda name: name or "none"),
                Column(label="verdict", field="verdict"),
                Column(label="throughput", field="ratio", write=amounts.ratio, numeric=True),
                Column(label="95 % interval", field="interval"),
                Column(label="noise floor", field="noise_floor", write=amounts.band, numeric=True),
                Column(label="memory", field="memory_ratio", write=amounts.ratio, numeric=True),
                *WHERE,
                Column(label="rounds", field="rounds", numeric=True),
                Column(label="remark", field="remark"),
            ),
            sunk="flag",
            look=_look,
        )
        if len(ratios)
        else None,
        table(
            "speeds",
            "Throughput and latency of one batch; with under 100 rounds p99 is near the slowest round",
            speeds.assign(beside=_beside(speeds)),
            (
                implementation,
                *([Column(label="beside", field="beside")] if several else []),
                *WHAT,
                Column(label="throughput, images/s", field="images_per_second", write=amounts.number, numeric=True),
                Column(label="median", field="median", write=amounts.seconds, numeric=True),
                Column(label="p95", field="p95", write=amounts.seconds, numeric=True),
                Column(label="p99", field="p99", write=amounts.seconds, numeric=True),
                *WHERE,
                Column(label="rounds", field="rounds", numeric=True),
                Column(label="flagged", field="flag"),
            ),
            sunk="flag",
            look=_look,
        )
        if len(speeds)
        else None,
        table(
            "memory",
            "Peak memory, size and arithmetic; a multiply-add is two FLOP",
            speeds.assign(beside=_beside(speeds)),
            (
                implementation,
                *([Column(label="beside", field="beside")] if several else []),
                *WHAT,
                Column(label="peak memory", field="peak_memory", write=amounts.size, numeric=True),
                Column(label="parameters", field="parameters", write=amounts.number, numeric=True),
                Column(label="FLOP of a batch", field="flops", write=amounts.flops, numeric=True),
                Column(label="achieved", field="achieved", write=amounts.rate, numeric=True),
                Column(label="of matmul peak", field="peak_share", write=amounts.percent, numeric=True),
                *WHERE,
                Column(label="flagged", field="flag"),
            ),
            sunk="flag",
            look=_look,
        )
        if len(speeds)
        else None,
    ]
    return [t for t in tables if t is not None]


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Changed checks, speeds, memory and environment; those that have rows."""
    subject = Column(label="subject", field="subject")
    speeds = comparison.speeds.assign(interval=_intervals(comparison.speeds), remark=_remarks(comparison.speeds))
    made = [
        table(
            "changed-checks",
            "Checks that came out otherwise than before",
            comparison.checks,
            (
                Column(label="change", field="change"),
                subject,
                Column(label="architecture", field="architecture"),
                Column(label="check", field="check"),
                Column(label="before", field="before", write=lambda outcome: outcome or "not run"),
                Column(label="after", field="after", write=lambda outcome: outcome or "not run"),
                Column(label="message", field="message", write=lambda text: str(text)[:400]),
            ),
            look=_look,
        ),
        table(
            "changed-speeds",
            "Throughput over the reference's, before and after; above 1 the subject became faster",
            speeds,
            (
                subject,
                *WHAT,
                Column(label="reference", field="reference", write=lambda name: name or "none"),
                Column(label="verdict", field="verdict"),
                Column(label="before", field="ratio_before", write=amounts.ratio, numeric=True),
                Column(label="after", field="ratio_after", write=amounts.ratio, numeric=True),
                Column(label="change", field="change", write=amounts.ratio, numeric=True),
                Column(label="95 % interval", field="interval"),
                Column(label="noise of both", field="floor", write=amounts.band, numeric=True),
                *WHERE,
                Column(label="remark", field="remark"),
            ),
            sunk="flag",
            look=_look,
        ),
        table(
            "changed-memory",
            "Peak memory before and after; larger or smaller only where the samples of the two runs don't overlap",
            comparison.memory,
            (
                subject,
                *WHAT,
                Column(label="verdict", field="verdict"),
                Column(label="before", field="before", write=amounts.size, numeric=True),
                Column(label="after", field="after", write=amounts.size, numeric=True),
                Column(label="change", field="change", write=amounts.ratio, numeric=True),
                *WHERE,
            ),
            look=_look,
        ),
        table(
            "changed-environment",
            "What differs between the two environments",
            comparison.environment,
            (
                Column(label="fact", field="fact"),
                Column(label="before", field="before"),
                Column(label="after", field="after"),
            ),
        ),
    ]
    return [t for t in made if t.rows]


def strength_tables(strength: Strength) -> list[Table]:
    """False alarms and faulty variants; those that have rows."""
    made = [
        table(
            "alarms",
            "Correct subjects that were rejected",
            strength.alarms,
            (
                Column(label="subject", field="name"),
                Column(label="family", field="family"),
                Column(label="rejected by", field="false_alarms"),
            ),
        ),
        table(
            "mutants",
            "Faulty variants: the bug each stands for and what rejected it",
            strength.mutants,
            (
                Column(label="variant", field="name"),
                Column(label="family", field="family"),
                Column(label="bug", field="bug"),
                Column(label="met in", field="issue"),
                Column(label="state", field="state"),
                Column(label="expected check", field="expected_check"),
                Column(label="killed by", field="killed_by"),
                Column(label="time", field="seconds", write=amounts.seconds, numeric=True),
            ),
            look=_look,
        ),
    ]
    return [t for t in made if t.rows]


def _intervals(frame: pd.DataFrame) -> list[str]:
    return [amounts.interval(low, high) for low, high in zip(frame["low"], frame["high"], strict=True)]


def _beside(speeds: pd.DataFrame) -> list[str]:
    """Per row, the subjects in whose comparison a reference was measured."""
    subjects = speeds[speeds["role"] == "subject"].groupby("comparison")["subject"].agg(", ".join).to_dict()
    return [
        "" if role == "subject" else str(subjects.get(comparison, ""))
        for role, comparison in zip(speeds["role"], speeds["comparison"], strict=True)
    ]


def _remarks(frame: pd.DataFrame) -> list[str]:
    """Why a row isn't ranked, then why there is no ratio or verdict."""
    return ["; ".join(said for said in pair if said) for pair in zip(frame["flag"], frame["note"], strict=True)]


def _look(column: Column, row: dict[str, Any]) -> str:
    if column.field in ("verdict", "change", "state") and isinstance(row[column.field], str):
        return "badge " + LOOKS.get(row[column.field], "plain")
    if column.field in ("remark", "flag", "bug", "message"):
        return "remark flagged" if row.get("flag") else "remark"
    return "brief" if column.field == "interval" else ""
