"""What changed against an earlier run: charts and tables."""

from __future__ import annotations

import pandas as pd

from reports.comparison.changes import NOTHING, UNKNOWN, Comparison, differing_facts
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
from reports.sections.section import Block, Section, Source, charts, filled, tables, text
from reports.sections.speed import WHAT, WHERE, intervals, look


def change_chart(speeds: pd.DataFrame) -> Chart | None:
    """How the ratio to each reference changed, of the times in `Comparison.frame`; None where none is bounded."""
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
    looks = {"faster": PALETTE[2], "slower": PALETTE[6], NOTHING: GREY, UNKNOWN: GREY}
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
    """Changed checks, speeds, memory, counts and environment; those that have rows."""
    subject = Column(label="subject", field="subject")
    verdict = Column(label="verdict", field="verdict")
    change = Column(label="change", field="change", write=units.ratio, numeric=True)
    checks, speeds = comparison.frame("conformance"), comparison.frame("time")
    facts = [(fact, *both) for fact, both in differing_facts(comparison.before, comparison.after).items()]
    made = [
        table(
            "changed-checks",
            "Checks that came out otherwise than before",
            checks[checks["verdict"] != NOTHING],
            (
                Column(label="change", field="verdict"),
                subject,
                Column(label="architecture", field="architecture"),
                Column(label="check", field="what"),
                Column(label="before", field="before", write=lambda outcome: outcome or "not run"),
                Column(label="after", field="after", write=lambda outcome: outcome or "not run"),
                Column(label="message", field="why"),
            ),
            look=look,
        ),
        table(
            "changed-speeds",
            "Throughput over the reference's, before and after; above 1 the subject became faster",
            speeds.assign(interval=intervals(speeds), remark=_remarks(comparison, speeds)),
            (
                subject,
                *WHAT,
                Column(label="reference", field="reference", write=lambda name: name or "none"),
                verdict,
                Column(label="before", field="before", write=units.ratio, numeric=True),
                Column(label="after", field="after", write=units.ratio, numeric=True),
                change,
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
            "Peak memory before and after; larger or smaller only where the samples lie apart by more than rounding",
            comparison.frame("memory"),
            (
                subject,
                *WHAT,
                verdict,
                Column(label="before", field="before", write=units.size, numeric=True),
                Column(label="after", field="after", write=units.size, numeric=True),
                change,
                *WHERE,
            ),
            look=look,
        ),
        table(
            "changed-counts",
            "Arithmetic of a batch and parameters, before and after",
            comparison.frame("flops", "parameters"),
            (
                subject,
                Column(label="architecture", field="architecture"),
                Column(label="count", field="kind", write=lambda kind: "FLOP" if kind == "flops" else kind),
                Column(label="setting", field="what", write=lambda what: "" if what == "parameters" else what),
                verdict,
                Column(label="before", field="before", write=units.number, numeric=True),
                Column(label="after", field="after", write=units.number, numeric=True),
                change,
            ),
            look=look,
        ),
        table(
            "changed-environment",
            "What differs between the two environments",
            pd.DataFrame(facts, columns=["fact", "before", "after"]),
            (
                Column(label="fact", field="fact"),
                Column(label="before", field="before"),
                Column(label="after", field="after"),
            ),
        ),
    ]
    return [t for t in made if t.rows]


def _remarks(comparison: Comparison, speeds: pd.DataFrame) -> list[str]:
    """Per row why nothing more can be said, and whether the change may be the reference's."""
    first, second = comparison.before.environment, comparison.after.environment
    said = []
    for why, reference in zip(speeds["why"], speeds["reference"], strict=True):
        library = reference.partition(".")[0]
        old, new = first.get(library), second.get(library)
        apart = old != new and None not in (old, new)
        note = f"{library} went from {old} to {new}: the change may be the reference's" if apart else ""
        said.append("; ".join(filter(None, (why, note))))
    return said


def section(source: Source) -> Section | None:
    """Nothing where the run isn't compared."""
    comparison = source.comparison
    if comparison is None:
        return None
    made, chart = comparison_tables(comparison), change_chart(comparison.frame("time"))
    notices = [f"Of the earlier run: {notice}" for notice in comparison.before.notices]
    return Section(
        id="changes",
        title=f"Changes since {comparison.before.id}",
        link="Changes",
        blocks=filled(
            Block(kind="notices", content=notices),
            charts([chart] if chart else []),
            tables(made) if made else text("Nothing changed."),
        ),
    )
