"""Latency, throughput, memory and arithmetic: figures that hold for one machine and moment."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.drawing import units
from reports.drawing.tables import csv_address
from reports.drawing.vega import (
    DRAWABLE,
    Chart,
    across,
    colour,
    height_of,
    inline_data,
    rows_of,
    settings,
    specification,
)
from reports.frames.ratios import SETTING


def absolute_charts(speeds: pd.DataFrame, names: Sequence[str]) -> list[Chart]:
    """Latency, throughput, peak memory and arithmetic; those that were measured."""
    peak = float(speeds["matmul_peak"].max())
    made = [
        latency_chart(speeds, names),
        bar_chart(
            speeds,
            names,
            "images_per_second",
            title="Throughput",
            axis="images/s",
            caption="Longer is faster: images per second at the median time of a batch. Absolute figures hold for this "
            "machine and moment only; the ratios above are what to judge by.",
        ),
        bar_chart(
            speeds,
            names,
            "peak_memory",
            title="Peak memory",
            axis="MB",
            caption="Shorter is leaner: the most that was allocated at once during one step, in megabytes (10⁶ bytes).",
            scale=1e-6,
        ),
        bar_chart(
            speeds,
            names,
            "peak_share",
            title="Share of the matmul peak",
            axis="achieved ÷ peak, %",
            caption="How much of the arithmetic that this machine was measured to do in matrix products "
            f"({units.rate(peak)}) each implementation reaches, in percent. Short bars are bound by memory "
            "or overhead, not by arithmetic.",
            scale=100,
        ),
    ]
    return [chart for chart in made if chart is not None]


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
