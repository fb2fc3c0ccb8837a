"""ResNet's depth against the norm of the gradient, with and without shortcuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from reports.drawing import DRAWABLE, Chart, colour, inline_data, logarithmic, specification
from reports.tables import csv_address

if TYPE_CHECKING:
    from reports.frames import Run

COLUMNS = {"architecture": "str", "variant": "str", "stage": "int64", "norm": "float64"}


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
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


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
