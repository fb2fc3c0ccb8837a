"""The noise study: how far this machine's figures can be trusted, from ``noise.json`` in a run's folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.drawing import units
from reports.drawing.tables import Column, Table, table
from reports.sections.section import Section, Source, filled, tables, text

NOISE = "noise.json"
KINDS = {"same": "equal", "slower_by_3_percent": "3 % slower", "slower_by_10_percent": "10 % slower"}
TRIAL_COLUMNS = ["work", "ratio", "low", "high", "floor", "verdict", "rounds", "disturbed"]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """``claims``: what, promised, found (str), held (bool). ``trials``: work (equal, 3 % slower, 10 % slower, or equal
    as pytest-benchmark timed it back to back), ratio, low, high, floor (log units), verdict, rounds, disturbed.
    """

    setting: str
    claims: pd.DataFrame
    trials: pd.DataFrame

    @property
    def sentence(self) -> str:
        """What it comes to."""
        held = int(self.claims["held"].sum())
        return f"{held} of {len(self.claims)} promises about the measurement held on {self.setting}."


def read_noise(folder: Path) -> tuple[Noise | None, str]:
    """The noise study of a run, None where it has none; and what is wrong with the file ("" where nothing is)."""
    path = folder / NOISE
    if not path.is_file():
        return None, ""
    try:
        return _noise(json.loads(path.read_bytes())), ""
    except OSError as error:
        return None, f"{NOISE} can't be read: {error.strerror or error}."
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return None, f"{NOISE} isn't a noise study: {type(error).__name__}: {error}."


def _noise(content: Any) -> Noise:
    claims = [
        {"what": str(c["what"]), "promised": str(c["promised"]), "found": str(c["found"]), "held": bool(c["held"])}
        for c in content["claims"]
    ]
    trials: list[dict[str, Any]] = []
    for key, work in KINDS.items():
        for trial in content[key]:
            figures = {n: _number(trial[n]) for n in ("ratio", "low", "high", "floor")}
            counts = {n: int(trial[n]) for n in ("rounds", "disturbed")}
            trials.append({"work": work, "verdict": str(trial["verdict"])} | figures | counts)
    for ratio in content["back_to_back"]["ratios"]:
        trials.append({"work": "equal, back to back (pytest-benchmark)", "ratio": _number(ratio), "verdict": ""})
    setting = f"{content['work']}, {content['seconds_each']:g} s a comparison, {content['threads']} threads"
    return Noise(
        setting=setting,
        claims=pd.DataFrame(claims, columns=["what", "promised", "found", "held"]),
        trials=pd.DataFrame(trials, columns=TRIAL_COLUMNS),
    )


def noise_tables(noise: Noise) -> list[Table]:
    """The promises, and every comparison."""
    claims = noise.claims.assign(outcome=["held" if held else "missed" for held in noise.claims["held"]])
    return [
        table(
            "noise-claims",
            "What was promised of the measurement, and what was found",
            claims,
            (
                Column(label="what", field="what"),
                Column(label="promised", field="promised"),
                Column(label="found", field="found"),
                Column(label="outcome", field="outcome"),
            ),
        ),
        table(
            "noise-trials",
            "Every comparison: the ratio is 1 for equal work, 0.971 for 3 % slower and 0.909 for 10 %",
            noise.trials,
            (
                Column(label="subject's work", field="work"),
                Column(label="ratio", field="ratio", write=_four, numeric=True),
                Column(label="from", field="low", write=_four, numeric=True),
                Column(label="to", field="high", write=_four, numeric=True),
                Column(label="noise floor", field="floor", write=units.band, numeric=True),
                Column(label="verdict", field="verdict"),
                Column(label="rounds", field="rounds", write=units.number, numeric=True),
                Column(label="disturbed", field="disturbed", write=units.number, numeric=True),
            ),
        ),
    ]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _four(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else units.UNKNOWN


def section(source: Source) -> Section:
    """Nothing where the run is no noise study; what is wrong with its file is a notice."""
    noise, trouble = read_noise(source.run.folder)
    blocks = filled(text(noise.sentence), tables(noise_tables(noise))) if noise is not None else []
    title = "Noise of the measurement"
    return Section(id="noise", title=title, link="Noise", blocks=blocks, notices=[trouble] if trouble else [])
