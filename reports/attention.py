"""Where a Vision Transformer looks in a photograph, and how alike its position embeddings are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.drawing import Chart, inline_data, specification
from reports.tables import csv_address

if TYPE_CHECKING:
    from reports.frames import Run

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
