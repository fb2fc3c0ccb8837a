"""Any model of a library's list: what holds, what doesn't, and throughput against parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.records.verdicts import BAD, judges
from reports.drawing import units
from reports.drawing.tables import Column, Table, csv_address, table
from reports.drawing.vega import PALETTE, Chart, inline_data, legend, logarithmic, specification
from reports.sections.checks import ZOO
from reports.sections.section import Section, Source, charts, filled, tables, text

if TYPE_CHECKING:
    from reports.frames.run import Run

VERDICTS = {"right": "holds", "WRONG": "doesn't hold", "not judged": "not judged"}
COLUMNS = [
    "subject",
    "architecture",
    "verdict",
    "passed",
    "skipped",
    "wrong",
    "pixels",
    "parameters",
    "images_per_second",
    "peak_memory",
    "device",
    "seconds",
    "message",
    "reproduce",
]


def zoo(run: Run, speeds: pd.DataFrame) -> pd.DataFrame:
    """A row per model, of `COLUMNS`.

    ``verdict`` (holds, doesn't hold, not judged), numbers of checks ``passed`` and ``skipped``, names of the ``wrong``
    ones, ``pixels`` of the images that they were judged on, ``parameters``, ``images_per_second`` of inference with
    ``peak_memory`` in bytes on ``device``, ``seconds`` of judging, and of the first failure ``message`` and
    ``reproduce``. NaN and "" where it isn't known.
    """
    checks = run.checks[(run.checks["suite"] == ZOO) & run.checks["check"].map(judges).astype(bool)]
    inference = speeds[(speeds["role"] == "subject") & (speeds["mode"] == "infer")]
    fastest = {
        (row["subject"], row["architecture"]): row
        for row in inference.drop_duplicates(["subject", "architecture"]).to_dict("records")
    }
    rows = []
    for (subject, architecture), own in checks.groupby(["subject", "architecture"], sort=False):
        outcomes = own["outcome"]
        wrong = own[outcomes.isin(BAD)]
        verdict = run.verdicts.of(ZOO, str(architecture), str(subject))
        speed = fastest.get((str(subject), str(architecture)), {})
        rows.append(
            {
                "subject": subject,
                "architecture": architecture,
                "verdict": VERDICTS[verdict.word],
                "passed": int((outcomes == "passed").sum()),
                "skipped": int((outcomes == "skipped").sum()),
                "wrong": ", ".join(verdict.found(*BAD)),
                "pixels": _noted(own, "side"),
                "parameters": speed.get("parameters", _noted(own, "parameters")),
                "images_per_second": speed.get("images_per_second", math.nan),
                "peak_memory": speed.get("peak_memory", math.nan),
                "device": speed.get("device", ""),
                "seconds": float(own["seconds"].sum()),
                "message": wrong["message"].iloc[0] if len(wrong) else "",
                "reproduce": wrong["reproduce"].iloc[0] if len(wrong) else "",
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _noted(own: pd.DataFrame, name: str) -> float:
    """A figure that the checks of one model noted; NaN where none did."""
    found = [d[name] for d in own["details"] if isinstance(d, dict) and isinstance(d.get(name), int | float)]
    return float(found[0]) if found else math.nan


def sentence(frame: pd.DataFrame) -> str:
    """What it comes to."""
    held, broken = (int((frame["verdict"] == verdict).sum()) for verdict in ("holds", "doesn't hold"))
    return (
        f"Of {len(frame)} models of {', '.join(sorted(set(frame['subject'])))}, {held} keep every general promise and "
        f"{broken} don't. The promises are those of any network; nothing published is compared."
    )


def zoo_tables(frame: pd.DataFrame) -> list[Table]:
    """Failures with their evidence first, then every model; those that have rows."""
    name = Column(label="model", field="architecture")
    broken = frame[frame["verdict"] == "doesn't hold"]
    made = [
        table(
            "zoo-broken",
            "Models that break a promise, the first failure of each, and the line that reproduces it",
            broken,
            (
                name,
                Column(label="checks", field="wrong"),
                Column(label="message", field="message", write=lambda text: str(text)[:400]),
                Column(label="reproduce", field="reproduce"),
            ),
        ),
        table(
            "zoo-models",
            "Every model: judged on the smallest images that it takes, on the CPU",
            frame,
            (
                name,
                Column(label="library", field="subject"),
                Column(label="verdict", field="verdict"),
                Column(label="passed", field="passed", numeric=True),
                Column(label="skipped", field="skipped", numeric=True),
                Column(label="pixels", field="pixels", write=units.number, numeric=True),
                Column(label="parameters", field="parameters", write=units.number, numeric=True),
                Column(label="throughput, images/s", field="images_per_second", write=units.number, numeric=True),
                Column(label="peak memory", field="peak_memory", write=units.size, numeric=True),
                Column(label="device", field="device"),
                Column(label="time of judging", field="seconds", write=units.seconds, numeric=True),
            ),
            look=_look,
        ),
    ]
    return [t for t in made if t.rows]


def _look(column: Column, row: dict[str, Any]) -> str:
    badges = {"holds": "badge good", "doesn't hold": "badge bad", "not judged": "badge plain"}
    return badges.get(str(row["verdict"]), "") if column.field == "verdict" else ""


def zoo_charts(frame: pd.DataFrame) -> list[Chart]:
    """Throughput against parameters; none where fewer than two models were measured."""
    import altair as alt

    measured = frame[(frame["images_per_second"] > 0) & (frame["parameters"] > 0)]
    if len(measured) < 2:
        return []
    rows = [
        {
            "model": row["architecture"],
            "verdict": row["verdict"],
            "parameters": row["parameters"],
            "throughput": row["images_per_second"],
        }
        for row in measured.to_dict("records")
    ]
    scales = {name: logarithmic([row[name] for row in rows]) for name in ("parameters", "throughput")}
    verdicts = alt.Scale(domain=["holds", "doesn't hold", "not judged"], range=[PALETTE[2], PALETTE[6], PALETTE[5]])
    points = (
        alt.Chart(inline_data(rows))
        .mark_point(size=45, filled=True, opacity=0.8)
        .encode(
            x=alt.X("parameters:Q", title="parameters", scale=scales["parameters"][0], axis=scales["parameters"][1]),
            y=alt.Y("throughput:Q", title="images/s", scale=scales["throughput"][0], axis=scales["throughput"][1]),
            color=alt.Color("verdict:N", title=None, scale=verdicts, legend=legend()),
            tooltip=["model:N", "parameters:Q", "throughput:Q", "verdict:N"],
        )
    )
    return [
        Chart(
            name="zoo-throughput",
            title="Throughput against parameters",
            caption="Up is faster, right is larger: images per second of inference at the median time of a batch, both "
            "axes logarithmic. Compare models on one device only.",
            spec=specification(points, height=320),
            csv=csv_address(measured),
        )
    ]


def section(source: Source) -> Section:
    """Nothing where no library's models were judged."""
    frame = zoo(source.run, source.speeds)
    blocks = filled(text(sentence(frame)), charts(zoo_charts(frame)), tables(zoo_tables(frame))) if len(frame) else []
    return Section(id="zoo", title="Zoo", link="Zoo", blocks=blocks)
