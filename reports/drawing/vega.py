"""What all charts share: colours, scales, rows of marks, and the finished specification."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import altair as alt

PALETTE = ("#3d7fc1", "#e08a2e", "#2f9e83", "#b065b5", "#c4a02a", "#7d8794", "#cf5b5b", "#5aa9c9")
"""Mid tones, told apart on light and dark ground and by most colour-blind readers."""
GREY = "#8b949e"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'
"""The style sheet's, so that labels are measured in the font that they are shown in."""
ROW = 18
"""Pixels of height per bar or point."""
MOST_TICKS = 8
DRAWABLE = (1e-30, 1e30)
"""Amounts outside are in the tables only: an axis that held them would show nothing else."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A Vega-Lite specification with its caption (what to conclude, units) and its data as a CSV address."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]
    csv: str


def settings(rows: Sequence[Mapping[Any, Any]]) -> tuple[list[str], str]:
    """Per row a line that tells its setting from the others', and a sentence with what all have in common.

    ``resnet50 · train`` and "All at batch 4 · 224 px · cpu · float32."
    """
    parts = [
        {
            "batch": f"batch {row['batch_size']}",
            "size": f"{row['input_size']} px",
            "device": row["device"],
            "dtype": row["dtype"],
        }
        for row in rows
    ]
    alike = [name for name in ("batch", "size", "device", "dtype") if len({part[name] for part in parts}) == 1]
    labels = [
        " · ".join([row["architecture"], row["mode"], *(text for name, text in part.items() if name not in alike)])
        for row, part in zip(rows, parts, strict=True)
    ]
    return labels, f" All at {' · '.join(parts[0][name] for name in alike)}." if alike else ""


def inline_data(rows: list[dict[str, Any]]) -> alt.InlineData:
    """Rows as data that the specification carries itself."""
    import altair as alt

    return alt.InlineData(values=rows)


def rows_of(field: str) -> alt.Y:
    """One row of marks per value, in the order of the data."""
    import altair as alt

    return alt.Y(f"{field}:N", title=None, sort=None).axis(labelLimit=300, domain=False, ticks=False)


def colour(field: str, names: Sequence[str], rows: list[dict[str, Any]]) -> alt.Color:
    """The colour that each of ``names`` has on every chart; the legend lists those that ``rows`` hold."""
    import altair as alt

    held = {row[field] for row in rows}
    shown = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names) if name in held}
    scale = alt.Scale(domain=list(shown), range=list(shown.values()))
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=legend())


def legend(orient: Literal["top", "bottom"] = "top") -> alt.Legend:
    """Above the drawing, or below it, where it takes no width."""
    import altair as alt

    return alt.Legend(orient=orient, labelLimit=220, symbolLimit=24, columns=4 if orient == "top" else 2)


def logarithmic(values: Sequence[float | None], *, around: float | None = None) -> tuple[alt.Scale, alt.Axis]:
    """A logarithmic scale that ``values`` (and ``around``) fill, and an axis with round ticks on it."""
    import altair as alt

    known = [v for v in (*values, around) if v is not None and v > 0 and math.isfinite(v)]
    low, high = min(known), max(known)
    margin = max((high / low) ** 0.04, 1.005)
    domain = (low / margin, high * margin)
    scale = alt.Scale(type="log", domain=list(domain), nice=False)
    return scale, alt.Axis(values=ticks(*domain), format="~g", grid=True)


def across(values: Sequence[float | None], title: str, *, around: float | None = None) -> Callable[[str], alt.X]:
    """A horizontal logarithmic axis over ``values`` (and ``around``); the result makes the channel of one field."""
    import altair as alt

    scale, axis = logarithmic(values, around=around)
    return lambda field: alt.X(f"{field}:Q", title=title, scale=scale, axis=axis)


def ticks(low: float, high: float) -> list[float]:
    """At most `MOST_TICKS` round values between two positive bounds, dense enough for narrow spans."""
    if high / low < 4:
        step = 10.0 ** math.floor(math.log10(high - low) - 1)
        while (high - low) / step > MOST_TICKS - 1:
            step *= 2 if f"{step:.0e}"[0] != "2" else 2.5
        first, last = math.ceil(low / step), math.floor(high / step)
        return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        found = [v for d in decades for m in mantissas if low <= (v := float(f"{m}e{d}")) <= high]
        if len(found) <= MOST_TICKS:
            return found
    return found[:: math.ceil(len(found) / MOST_TICKS)]


def specification(chart: alt.Chart | alt.LayerChart | alt.FacetChart, *, height: int) -> dict[str, Any]:
    """The specification, as wide as its place on the page."""
    spec: dict[str, Any] = chart.properties(width="container").to_dict()
    spec["height"] = height
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["background"] = None
    sizes = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    spec["config"] = {"font": FONT, "view": {"stroke": None}, "axis": sizes, "legend": {"labelFontSize": 12}}
    spec.pop("$schema", None)
    return spec


def height_of(rows: int) -> int:
    """Pixels for so many marks one below the other."""
    return max(60, (ROW + 2) * rows)
