"""What is particular to one family: EfficientNet's compound scaling beside the published figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.drawing import DRAWABLE, GREY, PALETTE, Chart, inline_data, legend, logarithmic, specification
from reports.tables import csv_address

if TYPE_CHECKING:
    from reports.frames import Run

SCALED = "efficientnet_b"
PANELS = (
    ("parameters", "Parameters", "millions", 1e-6),
    ("multiply_adds", "Multiply-adds of one image", "billions", 1e-9),
    ("images_per_second", "Measured throughput", "images/s", 1.0),
)


def scaling(run: Run, speeds: pd.DataFrame) -> pd.DataFrame:
    """Compound scaling: ``architecture``, ``subject``, ``source`` (measured or published), ``input_size``,
    ``parameters``, ``multiply_adds`` (of one image; a multiply-add is two flops), ``images_per_second`` (inference).
    """
    rows: list[dict[str, Any]] = []
    ours = speeds[
        speeds["architecture"].str.startswith(SCALED) & (speeds["role"] == "subject") & (speeds["mode"] == "infer")
    ]
    # A throughput belongs to its batch: of several, the one at which most architectures were measured.
    common = ours.groupby("batch_size")["architecture"].nunique().idxmax() if len(ours) else 1
    has = set(ours.loc[ours["batch_size"] == common, "architecture"])
    for row in ours[(ours["batch_size"] == common) | ~ours["architecture"].isin(has)].to_dict("records"):
        rows.append(
            {name: row[name] for name in ("architecture", "subject", "input_size", "parameters", "images_per_second")}
            | {"source": "measured", "multiply_adds": row["flops"] / 2 / row["batch_size"]}
        )
    published = run.measurements[run.measurements["architecture"].str.startswith(SCALED)]
    for row in published.drop_duplicates("architecture").to_dict("records"):
        facts = _published(published[published["architecture"] == row["architecture"]])
        if facts:
            rows.append({"architecture": row["architecture"], "subject": "published", "source": "published"} | facts)
    columns = ["architecture", "subject", "source", "input_size", "parameters", "multiply_adds", "images_per_second"]
    return pd.DataFrame(rows, columns=columns).sort_values("architecture", kind="stable")


def scaling_charts(frame: pd.DataFrame) -> list[Chart]:
    """Three panels over B0 to B7; none where fewer than two members were measured."""
    import altair as alt

    measured = frame[frame["source"] == "measured"]
    if measured["architecture"].nunique() < 2:
        return []
    names = list(dict.fromkeys([*measured["subject"], *frame["subject"]]))
    shades = {n: PALETTE[i % len(PALETTE)] if n != "published" else GREY for i, n in enumerate(names)}
    charts = []
    for field, title, unit, factor in PANELS:
        rows = [
            {
                "member": row["architecture"].removeprefix("efficientnet_").upper(),
                "implementation": row["subject"],
                "source": row["source"],
                "value": row[field] * factor,
                "pixels": row["input_size"],
            }
            for row in frame.to_dict("records")
            if isinstance(row[field], int | float) and DRAWABLE[0] <= row[field] <= DRAWABLE[1]
        ]
        if not rows:
            continue
        held = [name for name in names if any(row["implementation"] == name for row in rows)]
        colours = alt.Scale(domain=held, range=[shades[name] for name in held])
        scale, axis = logarithmic([row["value"] for row in rows])
        published = alt.datum.source == "published"
        base = alt.Chart(inline_data(rows)).encode(
            x=alt.X("member:N", title=None).axis(labelAngle=0),
            y=alt.Y("value:Q", title=unit, scale=scale, axis=axis),
            color=alt.Color("implementation:N", title=None, scale=colours, legend=legend()),
            tooltip=["member:N", "implementation:N", "pixels:Q", alt.Tooltip("value:Q", title=unit)],
        )
        layers = alt.layer(
            base.mark_line(strokeWidth=2).transform_filter(~published),
            base.mark_point(size=55, filled=True, opacity=1).transform_filter(~published),
            base.mark_point(size=190, filled=False, strokeWidth=2).transform_filter(published),
        )
        charts.append(
            Chart(
                name=f"scaling-{field.replace('_', '-')}",
                title=title,
                caption=_caption(field, unit, frame),
                spec=specification(layers, height=220),
                csv=csv_address(frame[["architecture", "subject", "source", "input_size", field]]),
            )
        )
    return charts


def _caption(field: str, unit: str, frame: pd.DataFrame) -> str:
    if field == "images_per_second":
        return f"What the scaling costs on this machine, at the median of inference; {unit}, logarithmic scale."
    sizes = frame.groupby("architecture")["input_size"].nunique()
    apart = field == "multiply_adds" and bool((sizes > 1).any())
    said = (
        f"Rings are published figures; each holds its point where the scaling is right. In {unit}, logarithmic scale."
    )
    if apart:
        said += " Some were measured at another image size than published (see the data): those may lie apart."
    return said


def _published(rows: pd.DataFrame) -> dict[str, float]:
    for details in rows["details"]:
        facts = details.get("published") if isinstance(details, dict) else None
        if isinstance(facts, dict):
            return {
                name: float(facts[name])
                for name in ("parameters", "multiply_adds", "input_size")
                if isinstance(facts.get(name), int | float)
            }
    return {}
