"""Accuracy of fine-tuning recipes against the time that they trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reports.drawing import units
from reports.drawing.tables import Column, Table, csv_address, table
from reports.drawing.vega import Chart, colour, inline_data, specification
from reports.sections.section import Section, Source, charts, filled, tables

if TYPE_CHECKING:
    from reports.frames.run import Run

BASELINE = "full_fine_tuning"
COLUMNS = (
    "data",
    "subject",
    "recipe",
    "epoch",
    "step",
    "phase",
    "seconds",
    "step_seconds",
    "loss",
    "accuracy",
    "peak_memory",
)
NUMBERS = ("epoch", "step", "phase", "seconds", "step_seconds", "loss", "peak_memory")


def curves(run: Run) -> pd.DataFrame:
    """One row per epoch of a training.

    ``data``, ``subject`` (the network), ``recipe`` (str); ``epoch``, ``step``, ``phase`` (float64, counts);
    ``seconds`` (of training so far), ``step_seconds`` (median of the epoch's steps), ``loss``, ``accuracy`` (share of
    the validation images), ``peak_memory`` (bytes of one step in the first phase).
    """
    rows: list[dict[str, Any]] = []
    for row in run.measurements[run.measurements["quantity"] == "accuracy"].to_dict("records"):
        details = row["details"] if isinstance(row["details"], dict) else {}
        numbers = {n: _number(details.get(n)) for n in NUMBERS}
        recipe = str(details.get("recipe") or row["architecture"])
        rows.append(
            {"data": row["comparison"], "subject": row["subject"], "recipe": recipe, **numbers}
            | {"accuracy": row["median"]}
        )
    kinds = dict.fromkeys((*NUMBERS, "accuracy"), "float64")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)


def results(frame: pd.DataFrame) -> pd.DataFrame:
    """The last epoch of every training, and how much its accuracy lies above (below, if negative) that of full
    fine-tuning on the same data after as many steps; NaN where that was not trained."""
    key = ["data", "subject", "recipe"]
    last = frame.sort_values("epoch", kind="stable").groupby(key, sort=False).tail(1).copy()
    plain = frame[frame["recipe"] == BASELINE].set_index(["data", "subject", "step"])["accuracy"]
    plain = plain[~plain.index.duplicated(keep="last")]
    last["difference"] = [
        row["accuracy"] - plain.get((row["data"], row["subject"], row["step"]), np.nan)
        for row in last.to_dict("records")
    ]
    return last.sort_values(["data", "accuracy"], ascending=[True, False], kind="stable")


def curve_charts(frame: pd.DataFrame) -> list[Chart]:
    """Accuracy over seconds of training, one chart per data set; none where nothing was trained."""
    import altair as alt

    charts = []
    for number, (data, held) in enumerate(frame.groupby("data", sort=False)):
        known = held.dropna(subset=["seconds"])
        if known.empty:
            continue
        fields = ["recipe", "subject", "epoch", "step", "phase", "seconds", "loss", "accuracy"]
        rows = [{str(n): v for n, v in row.items()} for row in known[fields].to_dict("records")]
        names = list(dict.fromkeys(known["recipe"]))
        base = alt.Chart(inline_data(rows)).encode(
            x=alt.X("seconds:Q", title="seconds of training"),
            y=alt.Y("accuracy:Q", title="validation accuracy").axis(format=".0%").scale(zero=False),
            color=colour("recipe", names, rows),
            detail="subject:N",
            tooltip=["recipe:N", "epoch:Q", "step:Q", "phase:Q", alt.Tooltip("accuracy:Q", format=".1%")],
        )
        layers = alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=45, filled=True, opacity=1))
        charts.append(
            Chart(
                name=f"fine-tuning-{number}",
                title=f"Fine-tuning on {data}",
                caption="Further up is better, further left sooner. Share of the validation images that are classified "
                "right after each epoch, against the seconds that training took so far (validation left out); recipes "
                "were trained one after the other.",
                spec=specification(layers, height=280),
                csv=csv_address(held),
            )
        )
    return charts


def curve_tables(frame: pd.DataFrame) -> list[Table]:
    """What each recipe came to; none where nothing was trained."""
    if frame.empty:
        return []
    return [
        table(
            "fine-tuning",
            "Accuracy after the last epoch, against full fine-tuning after as many steps; time and memory of a step",
            results(frame),
            (
                Column(label="recipe", field="recipe"),
                Column(label="network", field="subject"),
                Column(label="data", field="data"),
                Column(label="accuracy", field="accuracy", write=_share, numeric=True),
                Column(label="against full fine-tuning", field="difference", write=_points, numeric=True),
                Column(label="steps", field="step", write=units.number, numeric=True),
                Column(label="training", field="seconds", write=units.seconds, numeric=True),
                Column(label="step in the last epoch", field="step_seconds", write=units.seconds, numeric=True),
                Column(label="peak memory of a step", field="peak_memory", write=units.size, numeric=True),
            ),
        )
    ]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return "not trained" if np.isnan(value) else f"{100 * value:+.1f} points"


def section(source: Source) -> Section:
    """Nothing where nothing was fine-tuned."""
    frame = curves(source.run)
    blocks = filled(charts(curve_charts(frame)), tables(curve_tables(frame)))
    return Section(id="fine-tuning", title="Fine-tuning", link="Fine-tuning", blocks=blocks)
