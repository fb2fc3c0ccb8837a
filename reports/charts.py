"""Charts, each with what to conclude from it and the data behind it. Colours of text and axes are the page's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from reports.drawing import (
    DRAWABLE,
    GREY,
    PALETTE,
    Chart,
    across,
    colour,
    height_of,
    inline_data,
    legend,
    rows_of,
    settings,
    specification,
)
from reports.speed import NOT_RANKED, SETTING
from reports.tables import csv_address


def implementations(speeds: pd.DataFrame) -> list[str]:
    """Subjects, then references: one order, so that an implementation has one colour on all charts."""
    ordered = pd.concat([speeds[speeds["role"] == "subject"], speeds[speeds["role"] != "subject"]])
    return list(dict.fromkeys(ordered["subject"]))


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


def latency_chart(speeds: pd.DataFrame, names: Sequence[str]) -> Chart | None:
    """Median, p95 and p99 of each implementation."""
    import altair as alt

    known = speeds[speeds["median"].between(*DRAWABLE) & speeds["p99"].between(*DRAWABLE)]
    if not len(known):
        return None
    labels, alike = settings(known.to_dict("records"))
    rows = [
        {
            "setting": label,
            "implementation": row["subject"],
            "median": row["median"] * 1e3,
            "p95": row["p95"] * 1e3,
            "p99": row["p99"] * 1e3,
            "rounds": row["rounds"],
        }
        for label, row in zip(labels, known.to_dict("records"), strict=True)
    ]
    base = alt.Chart(inline_data(rows)).encode(
        y=rows_of("setting"),
        yOffset=alt.YOffset("implementation:N").sort(list(names)),
        color=colour("implementation", names, rows),
        tooltip=["setting:N", "implementation:N", "median:Q", "p95:Q", "p99:Q", "rounds:Q"],
    )
    x = across([row[name] for row in rows for name in ("median", "p95", "p99")], "time of one batch, ms")
    layers = alt.layer(
        base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=x("median"), x2="p99:Q"),
        base.mark_tick(thickness=2, size=9).encode(x=x("p95")),
        base.mark_point(size=55, filled=True, opacity=1).encode(x=x("median")),
    )
    return Chart(
        name="latency",
        title="Latency",
        caption=(
            "Left is faster; a long tail to the right is an unsteady one. The point is the median, the tick p95, the "
            f"end of the line p99. Milliseconds of one batch, logarithmic scale.{alike}"
        ),
        spec=specification(layers, height=height_of(len(rows))),
        csv=csv_address(speeds[["suite", "subject", "role", *SETTING[1:], "rounds", "median", "p95", "p99"]]),
    )


def bar_chart(
    speeds: pd.DataFrame, names: Sequence[str], field: str, *, title: str, axis: str, caption: str, scale: float = 1.0
) -> Chart | None:
    """Bars of one column of `reports.frames.speeds` per setting and implementation; None where it wasn't measured."""
    import altair as alt

    known = speeds[(speeds[field] == 0) | speeds[field].between(*DRAWABLE)]
    # A reference is measured again beside every subject: one bar, of the middle one.
    known = known.groupby([*SETTING, "subject", "role"], sort=False, as_index=False)[[field]].median()
    if not len(known):
        return None
    labels, alike = settings(known.to_dict("records"))
    rows = [
        {"setting": label, "implementation": row["subject"], "value": row[field] * scale}
        for label, row in zip(labels, known.to_dict("records"), strict=True)
    ]
    bars = (
        alt.Chart(inline_data(rows))
        .mark_bar()
        .encode(
            y=rows_of("setting"),
            yOffset=alt.YOffset("implementation:N").sort(list(names)),
            x=alt.X("value:Q", title=axis),
            color=colour("implementation", names, rows),
            tooltip=["setting:N", "implementation:N", alt.Tooltip("value:Q", title=axis, format=",.4~g")],
        )
    )
    return Chart(
        name=field.replace("_", "-"),
        title=title,
        caption=caption + alike,
        spec=specification(bars, height=height_of(len(rows))),
        csv=csv_address(known[["suite", "subject", "role", *SETTING[1:], field]]),
    )


def heat_chart(cells: pd.DataFrame, mutants: Sequence[str], *, caption: str) -> Chart:
    """Kill matrix: ``mutant``, ``check``, ``killed`` (str); ``mutants`` also names those with no cell."""
    import altair as alt

    looks = {"expected check": PALETTE[2], "another check": PALETTE[0], "not by the expected check": PALETTE[6]}
    scale = alt.Scale(domain=list(looks), range=list(looks.values()))
    heat = (
        alt.Chart(inline_data([{str(k): v for k, v in row.items()} for row in cells.to_dict("records")]))
        .mark_rect(stroke="transparent", strokeWidth=1)
        .encode(
            x=alt.X("check:N", title=None, sort=None).axis(orient="top", labelAngle=-60, labelLimit=150),
            y=alt.Y("mutant:N", title=None, sort=None).scale(domain=list(mutants)).axis(labelLimit=220),
            color=alt.Color("killed:N", title="killed by", scale=scale, legend=legend()),
            tooltip=["mutant:N", "check:N", "killed:N"],
        )
    )
    spec = specification(heat, height=60 + 14 * len(mutants))
    return Chart(name="kills", title="Kill matrix", caption=caption, spec=spec, csv=csv_address(cells))


def change_chart(speeds: pd.DataFrame) -> Chart | None:
    """Two runs: how the ratio to each reference changed (a frame of `reports.compare`)."""
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
