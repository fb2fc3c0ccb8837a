"""Speed against the references: charts and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports.drawing import units
from reports.drawing.tables import Column, Table, csv_address, table
from reports.drawing.vega import (
    DRAWABLE,
    GREY,
    Chart,
    across,
    colour,
    height_of,
    inline_data,
    rows_of,
    settings,
    specification,
)
from reports.frames.ratios import NOT_RANKED
from reports.sections.absolute import absolute_charts
from reports.sections.checks import ZOO
from reports.sections.costs import cost_charts, memory_by_kind, memory_chart
from reports.sections.roofline import pareto_charts, roofline, roofline_charts
from reports.sections.section import Block, Section, Source, charts, filled, pair, tables

LARGEST_SAMPLES = 1_000_000
"""Bytes of raw samples that the page carries; beyond them it points to ``records.jsonl``."""


def ratio_charts(ratios: pd.DataFrame, names: Sequence[str]) -> list[Chart]:
    """Per subject: throughput over each reference's, against 1.0 and the noise floor."""
    import altair as alt

    drawn = ratios[ratios["ratio"].between(*DRAWABLE)]
    charts = []
    for number, (subject, group) in enumerate(drawn.groupby("subject", sort=False)):
        found = group.to_dict("records")
        labels, alike = settings(found)
        rows = []
        for label, row in zip(labels, found, strict=True):
            floor = row["noise_floor"]
            seen = math.isfinite(floor) and floor < math.log(1e3)
            bounded = row["low"] >= DRAWABLE[0] and row["high"] <= DRAWABLE[1]
            rows.append(
                {
                    "setting": label,
                    "reference": row["reference"],
                    "ratio": row["ratio"],
                    "low": row["low"] if bounded else None,
                    "high": row["high"] if bounded else None,
                    "band_low": math.exp(-floor) if seen else None,
                    "band_high": math.exp(floor) if seen else None,
                    "verdict": row["verdict"],
                    "rounds": row["rounds"],
                    "flag": row["flag"],
                }
            )
        base = alt.Chart(inline_data(rows))
        y = rows_of("setting")
        offset = alt.YOffset("reference:N")
        ends = [row[name] for row in rows for name in ("ratio", "low", "high", "band_low", "band_high")]
        x = across(ends, "throughput ÷ reference's  (right of 1 is faster)", around=1.0)
        band = base.mark_rect(opacity=0.16, color=GREY).encode(y=y, x=x("band_low"), x2="band_high:Q")
        one = alt.Chart(inline_data([{"one": 1.0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x=x("one"))
        shade = colour("reference", names, rows)
        tooltip = ["setting:N", "reference:N", "ratio:Q", "low:Q", "high:Q", "rounds:Q", "verdict:N", "flag:N"]
        ranked = alt.condition(f"datum.verdict === '{NOT_RANKED}'", alt.value(0.35), alt.value(1))
        line = base.mark_rule(strokeWidth=2).encode(
            y=y, yOffset=offset, x=x("low"), x2="high:Q", color=shade, opacity=ranked
        )
        point = base.mark_point(size=55, filled=True, opacity=1).encode(
            y=y, yOffset=offset, x=x("ratio"), color=shade, opacity=ranked, tooltip=tooltip
        )
        flagged = bool((group["flag"] != "").any())
        charts.append(
            Chart(
                name=f"ratio-{number}",
                title=f"Speed of {subject} against each reference",
                caption=(
                    "Points right of 1 are faster than the reference, left of it slower; the line is a 95 % interval. "
                    "The grey band is the noise floor from measuring the subject against itself: a point inside it, or "
                    f"an interval that touches 1, shows no difference. Logarithmic scale, no unit.{alike}"
                    + (" Pale points are of subjects that are wrong: they aren't ranked." if flagged else "")
                ),
                spec=specification(alt.layer(band, one, line, point), height=height_of(len(rows))),
                csv=csv_address(group),
            )
        )
    return charts


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


def speed_tables(ratios: pd.DataFrame, speeds: pd.DataFrame) -> list[Table]:
    """Ratios, throughput and latency, memory and arithmetic; those that have rows."""
    implementation = Column(label="implementation", field="subject")
    several = speeds.loc[speeds["role"] == "subject", "subject"].nunique() > 1
    tables = [
        table(
            "ratios",
            "Subject over reference: throughput with its 95 % interval (above 1 is faster), memory (below 1 is less)",
            ratios.assign(interval=intervals(ratios), remark=remarks(ratios)),
            (
                Column(label="subject", field="subject"),
                *WHAT,
                Column(label="reference", field="reference", write=lambda name: name or "none"),
                Column(label="verdict", field="verdict"),
                Column(label="throughput", field="ratio", write=units.ratio, numeric=True),
                Column(label="95 % interval", field="interval"),
                Column(label="noise floor", field="noise_floor", write=units.band, numeric=True),
                Column(label="memory", field="memory_ratio", write=units.ratio, numeric=True),
                *WHERE,
                Column(label="rounds", field="rounds", numeric=True),
                Column(label="remark", field="remark"),
            ),
            sunk="flag",
            look=look,
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
                Column(label="throughput, images/s", field="images_per_second", write=units.number, numeric=True),
                Column(label="median", field="median", write=units.seconds, numeric=True),
                Column(label="p95", field="p95", write=units.seconds, numeric=True),
                Column(label="p99", field="p99", write=units.seconds, numeric=True),
                *WHERE,
                Column(label="rounds", field="rounds", numeric=True),
                Column(label="flagged", field="flag"),
            ),
            sunk="flag",
            look=look,
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
                Column(label="peak memory", field="peak_memory", write=units.size, numeric=True),
                Column(label="parameters", field="parameters", write=units.number, numeric=True),
                Column(label="FLOP of a batch", field="flops", write=units.flops, numeric=True),
                Column(label="achieved", field="achieved", write=units.rate, numeric=True),
                Column(label="of matmul peak", field="peak_share", write=units.percent, numeric=True),
                *WHERE,
                Column(label="flagged", field="flag"),
            ),
            sunk="flag",
            look=look,
        )
        if len(speeds)
        else None,
    ]
    return [t for t in tables if t is not None]


def intervals(frame: pd.DataFrame) -> list[str]:
    """The intervals ``low`` to ``high`` as text."""
    return [units.interval(low, high) for low, high in zip(frame["low"], frame["high"], strict=True)]


def _beside(speeds: pd.DataFrame) -> list[str]:
    """Per row, the subjects in whose comparison a reference was measured."""
    subjects = speeds[speeds["role"] == "subject"].groupby("comparison")["subject"].agg(", ".join).to_dict()
    return [
        "" if role == "subject" else str(subjects.get(comparison, ""))
        for role, comparison in zip(speeds["role"], speeds["comparison"], strict=True)
    ]


def remarks(frame: pd.DataFrame) -> list[str]:
    """Why a row isn't ranked, then why there is no ratio or verdict."""
    return ["; ".join(said for said in pair if said) for pair in zip(frame["flag"], frame["note"], strict=True)]


def look(column: Column, row: dict[str, Any]) -> str:
    """CSS classes of a cell."""
    if column.field in ("verdict", "change", "state") and isinstance(row[column.field], str):
        return "badge " + LOOKS.get(row[column.field], "plain")
    if column.field in ("remark", "flag", "bug", "message"):
        return "remark flagged" if row.get("flag") else "remark"
    return "brief" if column.field == "interval" else ""


WHAT = (Column(label="architecture", field="architecture"), Column(label="mode", field="mode"))
WHERE = (
    Column(label="batch", field="batch_size", numeric=True),
    Column(label="pixels", field="input_size", numeric=True),
    Column(label="device", field="device"),
    Column(label="dtype", field="dtype"),
)


def section(source: Source) -> Section:
    """Ratios first, then absolute figures, what a step costs, and how well the machine is used."""
    made = speed_tables(source.ratios, source.speeds)
    if not made:
        blocks, link = [Block(kind="unmeasured", content=True)], ""
    else:
        memory = memory_chart(memory_by_kind(source.run))
        costs = [*([memory] if memory else []), *cost_charts(source.run, source.names)]
        known = source.speeds["suite"] != ZOO
        blocks, link = (
            filled(
                charts(ratio_charts(source.ratios, source.names)),
                tables(made[:1]),
                pair(absolute_charts(source.speeds, source.names)),
                charts(costs[:1]),
                pair(costs[1:]),
                pair(
                    [
                        *roofline_charts(roofline(source.run, source.speeds), source.names),
                        *pareto_charts(source.speeds[known], source.names),
                    ]
                ),
                tables(made[1:]),
                Block(kind="samples", content={"csv": samples_csv(source.run.samples)}),
            ),
            "Speed and memory",
        )
    return Section(id="speed", title="Speed and memory", link=link, blocks=blocks)


def samples_csv(samples: pd.DataFrame) -> str:
    """Raw samples as a CSV address; empty where there are none, or too many for the page."""
    address = csv_address(samples) if 0 < len(samples) < LARGEST_SAMPLES // 40 else ""
    return address if len(address) <= LARGEST_SAMPLES else ""
