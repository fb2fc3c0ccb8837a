"""Charts, each with what to conclude from it and the data behind it. Colours of text and axes are the page's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.speed import NOT_RANKED
from reports.tables import csv_address

if TYPE_CHECKING:
    import altair as alt

PALETTE = ("#3d7fc1", "#e08a2e", "#2f9e83", "#b065b5", "#c4a02a", "#7d8794", "#cf5b5b", "#5aa9c9")
"""Mid tones, told apart on light and dark ground and by most colour-blind readers."""
GREY = "#8b949e"
ROW = 17
"""Pixels of height per bar or point."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A Vega-Lite specification with its caption (what to conclude, units) and its data as a CSV address."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]
    csv: str


def implementations(speeds: pd.DataFrame) -> list[str]:
    """Subjects, then references: one order, so that an implementation has one colour on all charts."""
    ordered = pd.concat([speeds[speeds["role"] == "subject"], speeds[speeds["role"] != "subject"]])
    return list(dict.fromkeys(ordered["subject"]))


def ratio_charts(ratios: pd.DataFrame, names: Sequence[str]) -> list[Chart]:
    """Per subject: throughput over each reference's, against 1.0 and the noise floor."""
    import altair as alt

    drawn = ratios[ratios["ratio"].notna() & (ratios["ratio"] > 0)]
    charts = []
    for number, (subject, group) in enumerate(drawn.groupby("subject", sort=False)):
        rows = []
        for row in group.to_dict("records"):
            floor = row["noise_floor"]
            seen = math.isfinite(floor) and floor < math.log(1e3)
            bounded = row["low"] > 0 and math.isfinite(row["high"])
            rows.append(
                {
                    "setting": setting(row),
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
        y = _rows_of("setting")
        offset = alt.YOffset("reference:N")
        title = "throughput ÷ reference's  (right of 1 is faster)"
        band = base.mark_rect(opacity=0.16, color=GREY).encode(y=y, x=_logarithmic("band_low", title), x2="band_high:Q")
        one = alt.Chart(inline_data([{"one": 1.0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="one:Q")
        colour = _colour("reference", names)
        tooltip = ["setting:N", "reference:N", "ratio:Q", "low:Q", "high:Q", "rounds:Q", "verdict:N", "flag:N"]
        ranked = alt.condition(f"datum.verdict === '{NOT_RANKED}'", alt.value(0.35), alt.value(1))
        line = base.mark_rule(strokeWidth=2).encode(
            y=y, yOffset=offset, x=_logarithmic("low", title), x2="high:Q", color=colour, opacity=ranked
        )
        point = base.mark_point(size=55, filled=True).encode(
            y=y, yOffset=offset, x=_logarithmic("ratio", title), color=colour, opacity=ranked, tooltip=tooltip
        )
        flagged = bool((group["flag"] != "").any())
        charts.append(
            Chart(
                name=f"ratio-{number}",
                title=f"Speed of {subject} against each reference",
                caption=(
                    "Points right of 1 are faster than the reference, left of it slower; the line is a 95 % interval. "
                    "The grey band is the noise floor from measuring the subject against itself: a point inside it, or "
                    "an interval that touches 1, shows no difference. Logarithmic scale, no unit."
                    + (" Pale points are of subjects that are wrong: they aren't ranked." if flagged else "")
                ),
                spec=specification(alt.layer(band, one, line, point), rows=len(rows)),
                csv=csv_address(group),
            )
        )
    return charts


def latency_chart(speeds: pd.DataFrame, names: Sequence[str]) -> Chart | None:
    """Median, p95 and p99 of each implementation."""
    import altair as alt

    rows = [
        {
            "setting": setting(row),
            "implementation": row["subject"],
            "median": row["median"] * 1e3,
            "p95": row["p95"] * 1e3,
            "p99": row["p99"] * 1e3,
            "rounds": row["rounds"],
        }
        for row in speeds.to_dict("records")
        if row["median"] > 0 and math.isfinite(row["p99"])
    ]
    if not rows:
        return None
    base = alt.Chart(inline_data(rows)).encode(
        y=_rows_of("setting"),
        yOffset=alt.YOffset("implementation:N").sort(list(names)),
        color=_colour("implementation", names),
        tooltip=["setting:N", "implementation:N", "median:Q", "p95:Q", "p99:Q", "rounds:Q"],
    )
    title = "time of one batch, ms"
    layers = alt.layer(
        base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=_logarithmic("median", title), x2="p99:Q"),
        base.mark_tick(thickness=2, size=9).encode(x=_logarithmic("p95", title)),
        base.mark_point(size=55, filled=True).encode(x=_logarithmic("median", title)),
    )
    return Chart(
        name="latency",
        title="Latency",
        caption=(
            "Left is faster; a long tail to the right is an unsteady one. The point is the median, the tick p95, the "
            "end of the line p99. Milliseconds of one batch, logarithmic scale."
        ),
        spec=specification(layers, rows=len(rows)),
        csv=csv_address(speeds[["suite", "subject", "role", *_SETTING, "rounds", "median", "p95", "p99"]]),
    )


def bar_chart(
    speeds: pd.DataFrame, names: Sequence[str], field: str, *, title: str, axis: str, caption: str, scale: float = 1.0
) -> Chart | None:
    """Bars of one column of `reports.frames.speeds` per setting and implementation; None where it wasn't measured."""
    import altair as alt

    known = speeds[speeds[field].notna() & (speeds[field] < 1e300)]
    if not len(known):
        return None
    rows = [
        {"setting": setting(row), "implementation": row["subject"], "value": row[field] * scale}
        for row in known.to_dict("records")
    ]
    bars = (
        alt.Chart(inline_data(rows))
        .mark_bar()
        .encode(
            y=_rows_of("setting"),
            yOffset=alt.YOffset("implementation:N").sort(list(names)),
            x=alt.X("value:Q", title=axis),
            color=_colour("implementation", names),
            tooltip=["setting:N", "implementation:N", alt.Tooltip("value:Q", title=axis, format=",.4~g")],
        )
    )
    return Chart(
        name=field.replace("_", "-"),
        title=title,
        caption=caption,
        spec=specification(bars, rows=len(rows)),
        csv=csv_address(known[["suite", "subject", "role", *_SETTING, field]]),
    )


def heat_chart(cells: pd.DataFrame, *, caption: str) -> Chart:
    """Kill matrix: ``mutant``, ``check``, ``killed`` (str)."""
    import altair as alt

    looks = {"expected check": PALETTE[2], "another check": PALETTE[0], "not by the expected check": PALETTE[6]}
    heat = (
        alt.Chart(inline_data([{str(k): v for k, v in row.items()} for row in cells.to_dict("records")]))
        .mark_rect(stroke="transparent", strokeWidth=1)
        .encode(
            x=alt.X("check:N", title=None, sort=None).axis(orient="top", labelAngle=-60, labelLimit=150),
            y=alt.Y("mutant:N", title=None, sort=None).axis(labelLimit=220),
            color=alt.Color("killed:N", title="killed by").scale(domain=list(looks), range=list(looks.values())),
            tooltip=["mutant:N", "check:N", "killed:N"],
        )
    )
    spec = specification(heat, rows=0)
    spec["height"] = {"step": 13}
    return Chart(name="kills", title="Kill matrix", caption=caption, spec=spec, csv=csv_address(cells))


def change_chart(speeds: pd.DataFrame) -> Chart | None:
    """Two runs: how the ratio to each reference changed (a frame of `reports.compare`)."""
    import altair as alt

    known = speeds[speeds["change"].notna() & (speeds["change"] > 0) & (speeds["low"] > 0)]
    known = known[known["high"] < math.inf]
    if not len(known):
        return None
    rows = [
        {"setting": f"{r['subject']} · {setting(r)} ÷ {r['reference']}"}
        | {k: r[k] for k in ("change", "low", "high", "verdict")}
        for r in known.to_dict("records")
    ]
    looks = {"faster": PALETTE[2], "slower": PALETTE[6]}
    base = alt.Chart(inline_data(rows)).encode(
        y=_rows_of("setting"),
        color=alt.Color("verdict:N", title=None).scale(
            domain=[*looks, "no difference seen", "cannot tell", NOT_RANKED], range=[*looks.values(), GREY, GREY, GREY]
        ),
        tooltip=["setting:N", "change:Q", "low:Q", "high:Q", "verdict:N"],
    )
    title = "ratio to the reference, now ÷ before"
    one = alt.Chart(inline_data([{"one": 1.0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="one:Q")
    layers = alt.layer(
        one,
        base.mark_rule(strokeWidth=2).encode(x=_logarithmic("low", title), x2="high:Q"),
        base.mark_point(size=55, filled=True).encode(x=_logarithmic("change", title)),
    )
    return Chart(
        name="change",
        title="Change of speed",
        caption=(
            "Right of 1 became faster relative to its reference, left of it slower; grey is undecided or within the "
            "noise of the two runs. Lines are 95 % intervals. Logarithmic scale, no unit."
        ),
        spec=specification(layers, rows=len(rows)),
        csv=csv_address(known),
    )


_SETTING = ["architecture", "mode", "device", "dtype", "batch_size", "input_size"]


def setting(row: Mapping[Any, Any]) -> str:
    """One line that tells settings apart: ``resnet50 · train · batch 4 · 224 px``."""
    parts = [row["architecture"], row["mode"], f"batch {row['batch_size']}", f"{row['input_size']} px"]
    parts += [row["device"]] if row["device"] != "cpu" else []
    parts += [row["dtype"]] if row["dtype"] != "float32" else []
    return " · ".join(parts)


def inline_data(rows: list[dict[str, Any]]) -> alt.InlineData:
    """Rows as data that the specification carries itself."""
    import altair as alt

    return alt.InlineData(values=rows)


def _logarithmic(field: str, title: str) -> alt.X:
    import altair as alt

    return alt.X(f"{field}:Q", title=title).scale(type="log")


def _rows_of(field: str) -> alt.Y:
    import altair as alt

    return alt.Y(f"{field}:N", title=None, sort=None).axis(labelLimit=230, domain=False, ticks=False)


def _colour(field: str, names: Sequence[str]) -> alt.Color:
    import altair as alt

    colours = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    return (
        alt.Color(f"{field}:N", title=None)
        .scale(domain=list(names), range=colours)
        .legend(orient="top", labelLimit=260, symbolLimit=24)
    )


def specification(chart: alt.Chart | alt.LayerChart | alt.FacetChart, *, rows: int) -> dict[str, Any]:
    """The specification, as wide as its place on the page; ``rows`` marks set the height."""
    spec: dict[str, Any] = chart.properties(width="container").to_dict()
    spec["height"] = max(60, (ROW + 3) * rows)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["background"] = None
    spec["config"] = {"view": {"stroke": None}, "axis": {"labelFontSize": 12, "titleFontSize": 12}}
    spec.pop("$schema", None)
    return spec
