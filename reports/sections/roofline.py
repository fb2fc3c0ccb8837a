"""How well the machine is used, and what speed a size buys: the roofline, and throughput against size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.drawing.tables import csv_address
from reports.drawing.vega import DRAWABLE, GREY, Chart, colour, inline_data, logarithmic, specification
from reports.frames.ratios import IMPLEMENTATION, MACHINE, NOT_RANKED

if TYPE_CHECKING:
    from reports.frames.run import Run

SIZES = {
    "parameters": ("parameters", "millions", 1e-6),
    "flops_of_an_image": ("arithmetic", "GFLOP an image", 1e-9),
}


def roofline(run: Run, speeds: pd.DataFrame) -> pd.DataFrame:
    """`reports.frames.speeds` with ``intensity`` (flop/byte), ``roof`` (flop/s, what bandwidth and the matmul peak
    leave at that intensity), ``bandwidth`` (byte/s) and ``roof_share``; only rows where all are known."""
    frame = run.measurements
    traffic = frame[frame["quantity"] == "traffic"].groupby(IMPLEMENTATION)["maximum"].max()
    bandwidth = frame[frame["quantity"] == "bandwidth"].groupby(MACHINE)["median"].median()
    rows = []
    for row in speeds.to_dict("records"):
        moved = traffic.get(tuple(row[n] for n in IMPLEMENTATION), math.nan)
        pace = bandwidth.get(tuple(row[n] for n in MACHINE), math.nan)
        if not (moved > 0 and pace > 0 and row["flops"] > 0 and row["matmul_peak"] > 0 and row["achieved"] > 0):
            continue
        intensity = row["flops"] / moved
        roof = min(row["matmul_peak"], pace * intensity)
        rows.append(
            row | {"intensity": intensity, "bandwidth": pace, "roof": roof, "roof_share": row["achieved"] / roof}
        )
    return pd.DataFrame(rows, columns=[*speeds.columns, "intensity", "bandwidth", "roof", "roof_share"])


def roofline_charts(points: pd.DataFrame, names: Sequence[str]) -> list[Chart]:
    """One per device and dtype: achieved arithmetic against intensity under the machine's roof."""
    charts = []
    drawable = points[points["intensity"].between(*DRAWABLE) & points["achieved"].between(*DRAWABLE)]
    for number, ((device, dtype), group) in enumerate(drawable.groupby(MACHINE, sort=False)):
        charts.append(_roofline_chart(group, names, f"roofline-{number}", f"{device}, {dtype}"))
    return charts


def _roofline_chart(points: pd.DataFrame, names: Sequence[str], name: str, machine: str) -> Chart:
    import altair as alt

    rows = [
        {
            "model": f"{row['architecture']} · {row['mode']} · batch {row['batch_size']}",
            "implementation": row["subject"],
            "intensity": row["intensity"],
            "achieved": row["achieved"] / 1e9,
            "share": row["roof_share"],
            "mode": row["mode"],
        }
        for row in points.to_dict("records")
    ]
    peak, pace = points["matmul_peak"].median(), points["bandwidth"].median()
    ridge = peak / pace
    low = min(points["intensity"].min(), ridge) / 2
    high = max(points["intensity"].max(), ridge) * 2
    roof = [{"x": x, "y": min(peak, pace * x) / 1e9} for x in (low, ridge, high)]
    across, ticks = logarithmic([low, high])
    up, levels = logarithmic([*(r["achieved"] for r in rows), *(r["y"] for r in roof)])
    x = alt.X("intensity:Q", title="arithmetic intensity, FLOP/byte", scale=across, axis=ticks)
    y = alt.Y("achieved:Q", title="achieved, GFLOP/s", scale=up, axis=levels)
    line = (
        alt.Chart(inline_data(roof))
        .mark_line(color=GREY, strokeWidth=2)
        .encode(x=alt.X("x:Q", scale=across, axis=ticks), y=alt.Y("y:Q", scale=up, axis=levels))
    )
    dots = (
        alt.Chart(inline_data(rows))
        .mark_point(size=60, filled=True, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=colour("implementation", names, rows),
            shape=alt.Shape("mode:N", title=None, legend=alt.Legend(orient="top")),
            tooltip=["model:N", "implementation:N", "intensity:Q", "achieved:Q", alt.Tooltip("share:Q", format=".0%")],
        )
    )
    limited = int((points["intensity"] < ridge).sum())
    return Chart(
        name=name,
        title=f"Roofline of this machine ({machine})",
        caption=(
            f"The line is what this machine can do: {peak / 1e9:,.0f} GFLOP/s in matrix products, {pace / 1e9:,.1f} "
            "GB/s from memory, both measured. Points under the slope are limited by memory, points under the flat part "
            "by arithmetic; the distance down to a point is what is left to gain. "
            f"{limited} of {len(points)} lie under the slope. Traffic counts every operator's reads and writes as if "
            "nothing stayed in a cache, so that a point may lie above the slope. Both scales logarithmic."
        ),
        spec=specification(alt.layer(line, dots), height=280),
        csv=csv_address(points.drop(columns=["comparison"])),
    )


def front(sizes: Sequence[float], speeds: Sequence[float]) -> list[bool]:
    """Which points no other one beats: none is at most as large and faster, or smaller and as fast."""
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], -speeds[i]))
    best, kept = -math.inf, [False] * len(sizes)
    for index in order:
        if speeds[index] > best:
            best, kept[index] = speeds[index], True
    return kept


def pareto_charts(speeds: pd.DataFrame, names: Sequence[str]) -> list[Chart]:
    """Throughput of inference against parameters and against FLOPs, where two architectures or more were measured."""
    frame = speeds[(speeds["mode"] == "infer") & speeds["images_per_second"].between(*DRAWABLE)].copy()
    frame["flops_of_an_image"] = frame["flops"] / frame["batch_size"]
    best = frame.sort_values("images_per_second").drop_duplicates(
        ["architecture", "subject", "device", "dtype", "input_size"], keep="last"
    )
    if best["architecture"].nunique() < 2:
        return []
    drawn = ((field, best[best[field].between(*DRAWABLE)]) for field in SIZES)
    return [_pareto_chart(group, names, field) for field, group in drawn if len(group)]


def _pareto_chart(frame: pd.DataFrame, names: Sequence[str], field: str) -> Chart:
    import altair as alt

    what, unit, scale = SIZES[field]
    ranked = frame["flag"] == ""
    best: set[Any] = set()
    for _, group in frame[ranked].groupby(MACHINE, sort=False):
        on_front = front(list(group[field]), list(group["images_per_second"]))
        best.update(index for index, kept in zip(group.index, on_front, strict=True) if kept)
    rows: list[dict[str, Any]] = [
        {
            "model": row["architecture"],
            "implementation": row["subject"],
            "size": row[field] * scale,
            "images/s": row["images_per_second"],
            "front": index in best,
            "state": NOT_RANKED if row["flag"] else "ranked",
            "machine": f"{row['device']} {row['dtype']}",
            "pixels": row["input_size"],
        }
        for index, row in frame.to_dict("index").items()
    ]
    across, ticks = logarithmic([r["size"] for r in rows])
    up, levels = logarithmic([r["images/s"] for r in rows])
    base = alt.Chart(inline_data(rows)).encode(
        x=alt.X("size:Q", title=unit, scale=across, axis=ticks),
        y=alt.Y("images/s:Q", title="images/s", scale=up, axis=levels),
    )
    line = (
        base.mark_line(color=GREY, strokeWidth=1.5, interpolate="step-after")
        .encode(detail="machine:N", order="size:Q")
        .transform_filter(alt.datum.front)
    )
    dots = base.mark_point(size=60, filled=True).encode(
        color=colour("implementation", names, rows),
        opacity=alt.condition(f"datum.state === '{NOT_RANKED}'", alt.value(0.3), alt.value(1)),
        tooltip=["model:N", "implementation:N", "size:Q", "images/s:Q", "pixels:Q", "machine:N", "state:N"],
    )
    labels = (
        base.mark_text(align="left", dx=6, dy=-6, fontSize=11, color=GREY)
        .encode(text="model:N")
        .transform_filter(alt.datum.front)
    )
    return Chart(
        name=f"pareto-{field.replace('_', '-')}",
        title=f"Throughput against {what}",
        caption=(
            "The line joins those that nothing beats: each other one is slower than something that is no larger. "
            "Inference at each one's best batch; both scales logarithmic"
            + (
                "; pale points are of subjects that are wrong and are left out of the line."
                if not ranked.all()
                else "."
            )
        ),
        spec=specification(alt.layer(line, dots, labels), height=280),
        csv=csv_address(frame[["suite", *IMPLEMENTATION[1:], field, "images_per_second", "flag"]]),
    )
