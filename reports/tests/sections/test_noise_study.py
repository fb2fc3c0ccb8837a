"""The noise study on the page: every figure, those that miss the promise too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reports.frames.run import load
from reports.pages.run_page import render
from reports.sections.noise_study import noise_tables, read_noise
from reports.tests.made_runs import write_run

TRIAL = {"ratio": 1.01, "low": 0.99, "high": 1.02, "floor": None, "verdict": "cannot tell", "rounds": 3, "disturbed": 3}
STUDY: dict[str, Any] = {
    "work": "resnet18 inference, batch 1, 224 px",
    "comparisons": 1,
    "seconds_each": 6.0,
    "threads": 2,
    "same": [TRIAL],
    "slower_by_3_percent": [{**TRIAL, "ratio": 0.97, "floor": 0.01, "verdict": "slower"}],
    "slower_by_10_percent": [TRIAL],
    "back_to_back": {"ratios": [0.93], "off_by_over_2_percent": 1},
    "claims": [
        {"what": "equal work <off>", "promised": "<= 1", "found": "0", "held": True},
        {"what": "3 % slower, found", "promised": ">= 27", "found": "20", "held": False},
    ],
}


def written(folder: Path, content: str) -> Path:
    run = write_run(folder, [])
    (run / "noise.json").write_text(content)
    return run


def test_every_figure_is_on_the_page(tmp_path: Path) -> None:
    run = written(tmp_path / "run", json.dumps(STUDY))
    noise, trouble = read_noise(run)
    assert trouble == ""
    assert noise is not None
    assert len(noise.trials) == 4
    assert noise.sentence.startswith("1 of 2 promises about the measurement held on resnet18 inference")
    claims, trials = noise_tables(noise)
    assert len(claims.rows) == 2
    assert len(trials.rows) == 4
    page = render(load(run))
    assert 'id="noise"' in page
    assert "missed" in page
    assert "0.9300" in page
    assert "equal work &lt;off&gt;" in page


def test_a_run_without_a_study_says_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [])
    assert read_noise(run) == (None, "")
    assert 'id="noise"' not in render(load(run))


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({**STUDY, "same": [{}]})])
def test_a_broken_file_is_said(content: str, tmp_path: Path) -> None:
    noise, trouble = read_noise(written(tmp_path / "run", content))
    assert noise is None
    assert trouble.startswith("noise.json isn't a noise study: ")
