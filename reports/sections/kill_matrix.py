"""The kill matrix: which check rejected which faulty variant, from ``mutants.json`` in a run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.drawing import units
from reports.drawing.tables import Column, Table, csv_address, table
from reports.drawing.vega import PALETTE, Chart, inline_data, legend, specification
from reports.sections.section import Section, Source, filled, folded, text
from reports.sections.speed import look

MUTANTS = "mutants.json"
COLUMNS = ["name", "family", "bug", "issue", "expected_check", "killed_by", "seconds", "state"]


@dataclass(frozen=True, kw_only=True)
class Strength:
    """``mutants``: name, family, bug, issue, expected_check, killed_by (str), seconds (float64), state (killed,
    survived, or killed by another check only). ``cells``: mutant, check, killed (how). ``alarms``: name, family and
    false_alarms of correct subjects that were rejected. ``correct`` is the number of correct subjects tried.
    """

    mutants: pd.DataFrame
    cells: pd.DataFrame
    alarms: pd.DataFrame
    correct: int

    @property
    def sentence(self) -> str:
        """What it comes to."""
        survived = int((self.mutants["state"] == "survived").sum())
        elsewhere = int((self.mutants["state"] == "killed by another check only").sum())
        return (
            f"{len(self.mutants) - survived} of {len(self.mutants)} faulty variants were rejected"
            + (f" ({elsewhere} only by a check other than the one that must)" if elsewhere else "")
            + f"; {len(self.alarms)} of {self.correct} correct, differently written subjects raised a false alarm."
        )


def read_strength(folder: Path) -> tuple[Strength | None, str]:
    """The kill matrix of a run, None where it has none; and what is wrong with the file ("" where nothing is)."""
    path = folder / MUTANTS
    if not path.is_file():
        return None, ""
    try:
        content = json.loads(path.read_bytes())
        return _strength(content), ""
    except OSError as error:
        return None, f"{MUTANTS} can't be read: {error.strerror or error}."
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return None, f"{MUTANTS} isn't a kill matrix: {type(error).__name__}: {error}."


def _strength(content: Any) -> Strength:
    mutants, cells = [], []
    order = {str(check): i for i, check in enumerate(content["checks"])}
    for mutant in content["mutants"]:
        killed_by = [str(check) for check in mutant["killed_by"]]
        expected = str(mutant["expected_check"])
        state = "killed" if expected in killed_by else "killed by another check only" if killed_by else "survived"
        mutants.append(
            {
                **{name: str(mutant.get(name) or "") for name in ("name", "family", "bug", "issue")},
                "expected_check": expected,
                "killed_by": ", ".join(killed_by),
                "seconds": float(mutant.get("seconds") or 0.0),
                "state": state,
            }
        )
        for check in sorted(killed_by, key=lambda name: order.get(name, len(order))):
            how = "expected check" if check == expected else "another check"
            if state != "killed":
                how = "not by the expected check"
            cells.append({"mutant": str(mutant["name"]), "check": check, "killed": how})
    alarms = [
        {
            "name": str(subject["name"]),
            "family": str(subject.get("family") or ""),
            "false_alarms": ", ".join(str(check) for check in subject["false_alarms"]),
        }
        for subject in content["correct"]
        if subject["false_alarms"]
    ]
    return Strength(
        mutants=pd.DataFrame(mutants, columns=COLUMNS),
        cells=pd.DataFrame(cells, columns=["mutant", "check", "killed"]),
        alarms=pd.DataFrame(alarms, columns=["name", "family", "false_alarms"]),
        correct=len(content["correct"]),
    )


def heat_chart(cells: pd.DataFrame, mutants: Sequence[str], *, caption: str) -> Chart:
    """Kill matrix: ``mutant``, ``check``, ``killed`` (str); ``mutants`` also names those with no cell."""
    import altair as alt

    looks = {"expected check": PALETTE[2], "another check": PALETTE[0], "not by the expected check": PALETTE[6]}
    scale = alt.Scale(domain=list(looks), range=list(looks.values()))
    heat = (
        alt.Chart(inline_data([{str(k): v for k, v in row.items()} for row in cells.to_dict("records")]))
        .mark_rect(stroke="transparent", strokeWidth=1)
        .encode(
            x=alt.X("check:N", title=None, sort=None).axis(orient="top", labelAngle=-60, labelLimit=150),
            y=alt.Y("mutant:N", title=None, sort=None).scale(domain=list(mutants)).axis(labelLimit=220),
            color=alt.Color("killed:N", title="killed by", scale=scale, legend=legend()),
            tooltip=["mutant:N", "check:N", "killed:N"],
        )
    )
    spec = specification(heat, height=60 + 14 * len(mutants))
    return Chart(name="kills", title="Kill matrix", caption=caption, spec=spec, csv=csv_address(cells))


KILLS = (
    "Each faulty variant (row) and the checks that rejected it. A row without the colour of its expected check is a "
    "gap; a column that is nowhere the expected check guards nothing of its own. No unit."
)


def strength_tables(strength: Strength) -> list[Table]:
    """False alarms and faulty variants; those that have rows."""
    made = [
        table(
            "alarms",
            "Correct subjects that were rejected",
            strength.alarms,
            (
                Column(label="subject", field="name"),
                Column(label="family", field="family"),
                Column(label="rejected by", field="false_alarms"),
            ),
        ),
        table(
            "mutants",
            "Faulty variants: the bug each stands for and what rejected it",
            strength.mutants,
            (
                Column(label="variant", field="name"),
                Column(label="family", field="family"),
                Column(label="bug", field="bug"),
                Column(label="met in", field="issue"),
                Column(label="state", field="state"),
                Column(label="expected check", field="expected_check"),
                Column(label="killed by", field="killed_by"),
                Column(label="time", field="seconds", write=units.seconds, numeric=True),
            ),
            look=look,
        ),
    ]
    return [t for t in made if t.rows]


def section(source: Source) -> Section:
    """Nothing where the run has no kill matrix; what is wrong with its file is a notice."""
    strength, trouble = read_strength(source.run.folder)
    blocks = []
    if strength is not None:
        cells = strength.cells
        drawn = [heat_chart(cells, list(strength.mutants["name"]), caption=KILLS)] if len(cells) else []
        blocks = filled(text(strength.sentence), folded([*strength_tables(strength), *drawn]))
    title = "Strength of the checks"
    return Section(id="strength", title=title, link=title, blocks=blocks, notices=[trouble] if trouble else [])
