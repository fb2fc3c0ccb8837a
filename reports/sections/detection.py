"""Detectors that were trained: average precision after each epoch, and pictures of what they found."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.drawing import units
from reports.drawing.tables import Column, Table, csv_address, table
from reports.drawing.vega import PALETTE, Chart, colour, height_of, inline_data, legend, rows_of, specification
from reports.sections.section import Block, Section, Source, filled, pair, tables

if TYPE_CHECKING:
    from reports.frames.run import Run

PICTURES = "pictures"
"""Folder in a run's, of JPEG files and ``captions.json`` (file name -> what it shows)."""
MOST_PICTURES = 8
LARGEST_PICTURE = 200_000
"""Bytes; a larger file is left out, so that the page stays small."""
NUMBERS = ("epoch", "step", "seconds", "loss", "map", "map_50", "map_75")
FITS = (("under 0.5", 0.0, 0.5), ("0.5 to 0.7", 0.5, 0.7), ("0.7 or more", 0.7, 2.0))
"""0.7 makes an anchor positive in training."""
COLUMNS = ("data", "architecture", "implementation", *NUMBERS)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image as an address that carries it, and what it shows."""

    address: str
    caption: str


def precision_curves(run: Run) -> pd.DataFrame:
    """One row per epoch of a detector's training.

    ``data`` (with steps and seed), ``architecture``, ``implementation`` (str); ``epoch``, ``step``, ``seconds`` (of
    training so far), ``loss``, ``map``, ``map_50``, ``map_75`` (average precision over IoU 0.5 to 0.95, at 0.5, at
    0.75; float64).
    """
    rows = []
    for row in run.measurements[run.measurements["quantity"] == "average_precision"].to_dict("records"):
        known = {"data": row["comparison"], "architecture": row["architecture"], "implementation": row["subject"]}
        rows.append(known | {n: row["details"].get(n) for n in NUMBERS})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(NUMBERS, "float64"))


def precision_charts(curves: pd.DataFrame) -> list[Chart]:
    """Average precision at IoU 0.5 over the steps of training, one chart per data set; none without a training."""
    import altair as alt

    charts = []
    for number, (data, held) in enumerate(curves.dropna(subset=["step", "map_50"]).groupby("data", sort=False)):
        fields = ["implementation", "architecture", "epoch", "step", "seconds", "loss", "map_50", "map"]
        rows = [{str(n): v for n, v in row.items()} for row in held[fields].to_dict("records")]
        base = alt.Chart(inline_data(rows)).encode(
            x=alt.X("step:Q", title="steps of training"),
            y=alt.Y("map_50:Q", title="average precision at IoU 0.5").scale(domain=[0, 1]),
            color=colour("implementation", list(dict.fromkeys(held["implementation"])), rows),
            tooltip=["implementation:N", "epoch:Q", "step:Q", "seconds:Q", "loss:Q", "map_50:Q", "map:Q"],
        )
        layers = alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=45, filled=True, opacity=1))
        charts.append(
            Chart(
                name=f"precision-{number}",
                title=f"Detection on {data}",
                caption="Further up is better: mean over the categories of the average precision at IoU 0.5 on the "
                "validation images, after each epoch. All implementations saw the same images, in the same order, from "
                "the same weights, with the same draws: curves that are equal lie upon one another.",
                spec=specification(layers, height=280),
                csv=csv_address(held),
            )
        )
    return charts


def coverage_charts(run: Run) -> list[Chart]:
    """Boxes of the training data by the pyramid level whose anchors fit them best, and how well; none without one."""
    import altair as alt

    rows: list[dict[str, Any]] = []
    found = run.measurements[run.measurements["quantity"] == "anchor_overlap"]
    for row in found.drop_duplicates(["comparison", "subject"], keep="last").to_dict("records"):
        for fit, low, high in FITS:
            boxes = sum(low <= overlap < high for overlap in row["samples"])
            level = f"{row['subject']} ({row['details'].get('anchor', '?')} px)"
            rows.append({"data": row["comparison"], "level": level, "fit": fit, "boxes": boxes})
    if not rows:
        return []
    fits = [fit for fit, _, _ in FITS]
    scale = alt.Scale(domain=fits, range=[PALETTE[6], PALETTE[1], PALETTE[2]])
    bars = (
        alt.Chart(inline_data(rows))
        .mark_bar()
        .encode(
            y=rows_of("level"),
            x=alt.X("boxes:Q", title="boxes", stack="zero"),
            color=alt.Color("fit:N", title="overlap", sort=fits, scale=scale, legend=legend()),
            tooltip=["data:N", "level:N", "fit:N", "boxes:Q"],
        )
    )
    return [
        Chart(
            name="anchor-coverage",
            title="Anchors of each pyramid level",
            caption="How many boxes of the training images fit the anchors of a level best, and how well, were their "
            "centres the same: with an overlap (IoU) under 0.5 a box is learnt only because its best anchor is forced "
            "on it. Long bars at P3 or P7 say that the anchors are too large or too small for the data.",
            spec=specification(bars, height=height_of(len({row["level"] for row in rows}))),
            csv=csv_address(pd.DataFrame(rows)),
        )
    ]


def precision_tables(curves: pd.DataFrame) -> list[Table]:
    """Each training's last epoch; none where nothing was trained."""
    if curves.empty:
        return []
    last = curves.groupby(["data", "architecture", "implementation"], sort=False).tail(1)
    return [
        table(
            "precision",
            "Average precision after the last epoch",
            last,
            (
                Column(label="implementation", field="implementation"),
                Column(label="architecture", field="architecture"),
                Column(label="data", field="data"),
                Column(label="mAP@50", field="map_50", write=_figure, numeric=True),
                Column(label="mAP@50:95", field="map", write=_figure, numeric=True),
                Column(label="epochs", field="epoch", write=units.number, numeric=True),
                Column(label="training", field="seconds", write=units.seconds, numeric=True),
            ),
        )
    ]


def pictures(folder: Path) -> list[Picture]:
    """Those in the run's `PICTURES` folder, by name; what can't be read is left out."""
    place = folder / PICTURES
    try:
        captions = json.loads((place / "captions.json").read_text(encoding="utf-8"))
        files = sorted(p for p in place.iterdir() if p.suffix in (".jpg", ".jpeg"))
    except (OSError, ValueError):
        return []
    found: list[Picture] = []
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if len(content) <= LARGEST_PICTURE and len(found) < MOST_PICTURES:
            caption = captions.get(path.name) if isinstance(captions, dict) else None
            address = f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
            found.append(Picture(address=address, caption=str(caption or path.name)))
    return found


def _figure(value: float) -> str:
    return "not known" if value != value else f"{max(0.0, value):.3f}"


def section(source: Source) -> Section:
    """Nothing where no detector was trained or run."""
    frame = precision_curves(source.run)
    blocks = filled(
        tables(precision_tables(frame)),
        pair([*precision_charts(frame), *coverage_charts(source.run)]),
        Block(kind="pictures", content=pictures(source.run.folder)),
    )
    return Section(id="detection", title="Detection", link="Detection", blocks=blocks)
