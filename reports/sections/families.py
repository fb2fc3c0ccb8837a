"""What is particular to one family: compound scaling, depth and gradients, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.drawing.tables import csv_address
from reports.drawing.vega import DRAWABLE, GREY, PALETTE, Chart, colour, inline_data, legend, logarithmic, specification
from reports.sections.section import Section, Source, charts, filled, pair

if TYPE_CHECKING:
    from reports.frames.run import Run


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


DEPTH_COLUMNS = {"architecture": "str", "variant": "str", "stage": "int64", "norm": "float64"}


def gradient_norms(run: Run) -> pd.DataFrame:
    """One row per stage: ``architecture``, ``variant`` (with or without shortcuts; str), ``stage`` (int64, from 1 at
    the input), ``norm`` (float64, of the loss's gradient at the stage's output, over that at the last stage's)."""
    rows = []
    for row in run.measurements[run.measurements["quantity"] == "gradient_norm"].to_dict("records"):
        last = row["samples"][-1]
        rows += [
            {"architecture": row["architecture"], "variant": row["subject"], "stage": stage, "norm": value / last}
            for stage, value in enumerate(row["samples"], start=1)
            if last > 0
        ]
    return pd.DataFrame(rows, columns=list(DEPTH_COLUMNS)).astype(DEPTH_COLUMNS)


def depth_charts(norms: pd.DataFrame) -> list[Chart]:
    """One chart, a line per network; none where no gradient was recorded."""
    import altair as alt

    known = norms[norms["norm"].between(*DRAWABLE)]
    if not len(known):
        return []
    rows = [{str(k): v for k, v in row.items()} for row in known.to_dict("records")]
    scale, axis = logarithmic([row["norm"] for row in rows], around=1.0)
    axis.format = ".0e"
    base = alt.Chart(inline_data(rows)).encode(
        x=alt.X("stage:O", title="stage, from the input").axis(labelAngle=0),
        y=alt.Y("norm:Q", title="gradient ÷ last stage's", scale=scale, axis=axis),
        color=colour("variant", list(dict.fromkeys(known["variant"])), rows),
        strokeDash=alt.StrokeDash(
            "architecture:N", title=None, sort=None, legend=alt.Legend(orient="top", symbolType="stroke")
        ),
        tooltip=["architecture:N", "variant:N", "stage:O", alt.Tooltip("norm:Q", format=".3~g")],
    )
    layers = alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=45, filled=True, opacity=1))
    return [
        Chart(
            name="gradient-norms",
            title="The gradient on its way back",
            caption=(
                "A line that stays near 1 is a network whose first stage learns as much as its last; one that climbs "
                "is a gradient that explodes with the depth. Norm of the loss's gradient at each stage's output, in "
                "train mode, over that at the last stage; no unit, logarithmic scale."
            ),
            spec=specification(layers, height=260),
            csv=csv_address(known),
        )
    ]


KINDS = {
    "attention": (
        "Attention of the class token",
        "Bright patches of {image} are those that the class token reads from, averaged over the heads; its attention "
        "to all patches and itself sums to 1.",
    ),
    "position_similarity": (
        "Similarity of position embeddings",
        "Trained embeddings are most alike among neighbours, in the same row and in the same column; as drawn at the "
        "start, a patch is like itself only. Cosine, below 0 drawn as 0.",
    ),
}


def attention_charts(run: Run) -> list[Chart]:
    """A heat map for each grid that was recorded; the last one of its name."""
    import altair as alt

    charts = []
    for kind, (title, caption) in KINDS.items():
        found = run.measurements[run.measurements["quantity"] == kind]
        for number, row in enumerate(found.drop_duplicates("comparison", keep="last").to_dict("records")):
            cells = _cells(row)
            if cells is None:
                continue
            grid = (
                alt.Chart(inline_data([{str(k): v for k, v in c.items()} for c in cells.to_dict("records")]))
                .mark_rect()
                .encode(
                    x=alt.X("column:O", title=None).axis(labels=False, ticks=False, domain=False),
                    y=alt.Y("row:O", title=None).axis(labels=False, ticks=False, domain=False),
                    color=alt.Color("value:Q", title=None)
                    .scale(scheme="viridis")
                    .legend(orient="right", format=".2~g"),
                    tooltip=["row:O", "column:O", alt.Tooltip("value:Q", format=".3~g")],
                )
            )
            weights = str(row["details"].get("weights", ""))
            remark = (
                " The weights are fresh: what shows is the brightness of the picture, and nothing that was learnt."
                if weights.startswith("fresh")
                else ""
            )
            charts.append(
                Chart(
                    name=f"{kind.replace('_', '-')}-{number}",
                    title=f"{title}: {row['architecture']}, {row['comparison']}",
                    caption=caption.format(image=row["details"].get("image", "a photograph")) + remark,
                    spec=specification(grid, height=260),
                    csv=csv_address(cells),
                )
            )
    return charts


def _cells(row: dict[Any, Any]) -> pd.DataFrame | None:
    """``row``, ``column`` (from 1), ``value``; None where the record doesn't say what shape it has."""
    rows, columns = (row["details"].get(n) for n in ("rows", "columns"))
    values = row["samples"]
    if not (isinstance(rows, int) and isinstance(columns, int) and rows * columns == len(values) and len(values)):
        return None
    return pd.DataFrame(
        {"row": i // columns + 1, "column": i % columns + 1, "value": value} for i, value in enumerate(values)
    )


def scaling_section(source: Source) -> Section:
    """Compound scaling, where several members were measured."""
    drawn = scaling_charts(scaling(source.run, source.speeds))
    title = "Compound scaling of EfficientNet"
    return Section(id="scaling", title=title, link="Compound scaling", blocks=filled(pair(drawn)))


def depth_section(source: Source) -> Section:
    """Gradient norms by depth, where they were recorded."""
    drawn = depth_charts(gradient_norms(source.run))
    return Section(id="depth", title="Depth and gradient of ResNet", link="Depth", blocks=filled(charts(drawn)))


def attention_section(source: Source) -> Section:
    """Attention maps and positions, where they were recorded."""
    title = "Attention and positions of the Vision Transformer"
    return Section(id="attention", title=title, link="Attention", blocks=filled(pair(attention_charts(source.run))))
