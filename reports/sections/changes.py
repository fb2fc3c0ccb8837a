"""What changed against an earlier run: charts and tables."""

from __future__ import annotations

import pandas as pd

from reports.comparison.run_comparison import Comparison
from reports.drawing import units
from reports.drawing.tables import Column, Table, csv_address, table
from reports.drawing.vega import (
    DRAWABLE,
    GREY,
    PALETTE,
    Chart,
    across,
    height_of,
    inline_data,
    legend,
    rows_of,
    settings,
    specification,
)
from reports.frames.ratios import NOT_RANKED
from reports.sections.speed import WHAT, WHERE, intervals, look, remarks


def change_chart(speeds: pd.DataFrame) -> Chart | None:
    """Two runs: how the ratio to each reference changed (a frame of `reports.comparison.run_comparison`)."""
    import altair as alt

    known = speeds[speeds["low"].between(*DRAWABLE) & speeds["high"].between(*DRAWABLE)]
    if not len(known):
        return None
    labels, alike = settings(known.to_dict("records"))
    rows = [
        {"setting": f"{row['subject']} ÷ {row['reference']} · {label}"}
        | {name: row[name] for name in ("change", "low", "high", "verdict")}
        for label, row in zip(labels, known.to_dict("records"), strict=True)
    ]
    looks = {"faster": PALETTE[2], "slower": PALETTE[6]} | dict.fromkeys(("no difference seen", "cannot tell"), GREY)
    looks[NOT_RANKED] = PALETTE[4]
    scale = alt.Scale(domain=list(looks), range=list(looks.values()))
    base = alt.Chart(inline_data(rows)).encode(
        y=rows_of("setting"),
        color=alt.Color("verdict:N", title=None, scale=scale, legend=legend()),
        tooltip=["setting:N", "change:Q", "low:Q", "high:Q", "verdict:N"],
    )
    ends = [row[name] for row in rows for name in ("change", "low", "high")]
    x = across(ends, "ratio to the reference, now ÷ before", around=1.0)
    one = alt.Chart(inline_data([{"one": 1.0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x=x("one"))
    layers = alt.layer(
        one,
        base.mark_rule(strokeWidth=2).encode(x=x("low"), x2="high:Q"),
        base.mark_point(size=55, filled=True, opacity=1).encode(x=x("change")),
    )
    return Chart(
        name="change",
        title="Change of speed",
        caption=(
            "Right of 1 became faster relative to its reference, left of it slower; grey is undecided or within the "
            f"noise of the two runs. Lines are 95 % intervals. Logarithmic scale, no unit.{alike}"
        ),
        spec=specification(layers, height=height_of(len(rows))),
        csv=csv_address(known),
    )


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Changed checks, speeds, memory and environment; those that have rows."""
    subject = Column(label="subject", field="subject")
    speeds = comparison.speeds.assign(interval=intervals(comparison.speeds), remark=remarks(comparison.speeds))
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
            look=look,
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
                Column(label="before", field="ratio_before", write=units.ratio, numeric=True),
                Column(label="after", field="ratio_after", write=units.ratio, numeric=True),
                Column(label="change", field="change", write=units.ratio, numeric=True),
                Column(label="95 % interval", field="interval"),
                Column(label="noise of both", field="floor", write=units.band, numeric=True),
                *WHERE,
                Column(label="remark", field="remark"),
            ),
            sunk="flag",
            look=look,
        ),
        table(
            "changed-memory",
            "Peak memory before and after; larger or smaller only where the samples of the two runs don't overlap",
            comparison.memory,
            (
                subject,
                *WHAT,
                Column(label="verdict", field="verdict"),
                Column(label="before", field="before", write=units.size, numeric=True),
                Column(label="after", field="after", write=units.size, numeric=True),
                Column(label="change", field="change", write=units.ratio, numeric=True),
                *WHERE,
            ),
            look=look,
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
