"""The page of many runs: every series over time, where its level changed and with which commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from reports.drawing import units
from reports.drawing.tables import Column, Table, csv_address, table
from reports.drawing.vega import GREY, PALETTE, Chart, inline_data, specification
from reports.frames.history import FAILED, KEYS, MEMORY, change_points
from reports.pages.render import fill, save

MOST_CHARTS = 24
"""Series that are drawn: those that changed most, then the rest in their order; the table has all."""
MOST_POINTS = 500
"""Points of one drawing; longer series are drawn by every n-th run, and their changes where they are."""


def write_history(frame: pd.DataFrame, output: Path, results: str) -> Path:
    """Write the page of `reports.frames.history.history` and return its path. Raises RunError where that can't be."""
    from altair.utils.schemapi import debug_mode

    changes = changed(frame)
    with debug_mode(False):  # as for the page of one run: checking each drawing costs seconds
        drawn = charts(frame, changes)
    series, runs = frame.groupby(list(KEYS), observed=True).ngroups, frame["run"].nunique()
    said = units.count(len(changes), "change")
    page = fill(
        "history.html.j2",
        drawn,
        results=results,
        verdict=f"{said} of level in {series:,} series over {units.count(runs, 'run')}.",
        notices=frame.attrs.get("left_out", []),
        charts=drawn,
        tables=tables(frame, changes),
    )
    return save(output, page)


def changed(frame: pd.DataFrame) -> pd.DataFrame:
    """Where the level of a series changed (`reports.frames.history.change_points`), the largest change first.

    Without counts of failed checks: whether those changed is no question of scatter.
    """
    known = frame[frame["figure"] != FAILED]
    plain = known.astype(dict.fromkeys((*KEYS, "run", "started", "commit"), "object"))
    found = change_points(plain, keys=list(KEYS))
    return found.loc[(found["change"] - 1).abs().sort_values(ascending=False, kind="stable").index]


def charts(frame: pd.DataFrame, changes: pd.DataFrame) -> list[Chart]:
    """A line per series, with a rule where its level changed."""
    made = []
    groups = frame.groupby(list(KEYS), sort=False, observed=True)
    known: list[Any] = list(groups.groups)
    order = [tuple(key) for key in changes[list(KEYS)].drop_duplicates().itertuples(index=False, name=None)]
    order += [key for key in known if key not in set(order) and key[0] != FAILED]
    order += [key for key in known if key[0] == FAILED and groups.get_group(key)["value"].any()]
    for number, key in enumerate(order[:MOST_CHARTS]):
        own = changes[(changes[list(KEYS)] == list(key)).all(axis=1)] if len(changes) else changes
        made.append(_chart(number, dict(zip(KEYS, key, strict=True)), groups.get_group(key), own))
    return made


def tables(frame: pd.DataFrame, changes: pd.DataFrame) -> list[Table]:
    """The changes, and the newest value of every series."""
    head = tuple(Column(label=name.replace("_", " "), field=name) for name in KEYS[:6])
    size = (
        Column(label="batch", field="batch_size", numeric=True),
        Column(label="pixels", field="input_size", numeric=True),
    )
    newest = frame.groupby(list(KEYS), sort=False, observed=True).agg(
        runs=("value", "size"),
        lowest=("value", "min"),
        median=("value", "median"),
        highest=("value", "max"),
        newest=("value", "last"),
    )
    series = newest.reset_index().astype(dict.fromkeys(KEYS, "object"))
    numbers = ("lowest", "median", "highest", "newest")
    made = [
        table(
            "changes",
            "Where a level changed: the first run at the new level, its commit, and how long the new level has held",
            changes,
            (
                *head,
                Column(label="change", field="change", write=units.ratio, numeric=True),
                Column(label="before", field="before", write=units.number, numeric=True),
                Column(label="after", field="after", write=units.number, numeric=True),
                Column(label="since run", field="run"),
                Column(label="commit", field="commit", write=lambda name: str(name)[:12] or "not known"),
                Column(label="runs at it", field="runs", numeric=True),
                *size,
            ),
        ),
        table(
            "series",
            "Every series: ratios have no unit (above 1 is faster than the reference), memory is in bytes",
            series,
            (
                *head,
                Column(label="runs", field="runs", numeric=True),
                *(Column(label=name, field=name, write=units.number, numeric=True) for name in numbers),
                *size,
            ),
        ),
    ]
    return [t for t in made if t.rows]


def _chart(number: int, key: dict[str, Any], series: pd.DataFrame, changes: pd.DataFrame) -> Chart:
    import altair as alt

    scale = 1e-6 if key["figure"] == MEMORY else 1.0
    unit = {MEMORY: "MB", FAILED: "checks"}.get(key["figure"], "subject ÷ reference")
    values = series["value"] * scale
    step = -(-len(series) // MOST_POINTS)
    fields = ("run", "started", "commit")
    rows = [
        {"index": i, "value": v, **dict(zip(fields, map(str, known), strict=True))}
        for i, (v, *known) in enumerate(zip(values, *(series[f] for f in fields), strict=True))
    ]
    where = {row["run"]: row["index"] for row in rows}
    marks = [
        {
            "index": where[str(row["run"])],
            "change": f"{units.ratio(row['change'])} since {str(row['commit'])[:12] or row['run']}",
        }
        for row in changes.to_dict("records")
    ]
    x = alt.X("index:Q", title="run, oldest first").axis(tickMinStep=1, format="d")
    y = alt.Y("value:Q", title=unit).scale(zero=key["figure"] == FAILED)
    base = alt.Chart(inline_data([row for row in rows if row["index"] % step == 0]))
    layers: list[Any] = [
        base.mark_line(strokeWidth=1.5, color=PALETTE[0]).encode(x=x, y=y),
        base.mark_point(size=18, filled=True, color=PALETTE[0], opacity=1).encode(
            x=x, y=y, tooltip=["run:N", "started:N", "commit:N", "value:Q"]
        ),
    ]
    if marks:
        rule = alt.Chart(inline_data(marks)).encode(x=x, tooltip=["change:N"])
        layers.append(rule.mark_rule(color=PALETTE[6], strokeWidth=2, strokeDash=[5, 3]))
    elif unit.startswith("subject"):
        layers.append(alt.Chart(inline_data([{"one": 1.0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(y="one:Q"))
    who = " · ".join(str(key[name]) for name in ("architecture", "subject", "mode") if key[name])
    against = f" ÷ {key['reference']}" if key["reference"] else ""
    said = "; ".join(mark["change"] for mark in marks)
    return Chart(
        name=f"history-{number}",
        title=f"{key['figure']}: {who}{against}",
        caption=(f"The level changed: {said}. " if marks else "No change of level was found. ")
        + f"In {unit}, one point per run"
        + (f", every {step}th drawn." if step > 1 else "."),
        spec=specification(alt.layer(*layers), height=180),
        csv=csv_address(series[["run", "started", "commit", "value"]]),
    )
