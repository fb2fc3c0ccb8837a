"""Curves of fine-tuning on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.run_store import RunStore
from harness.records.schema import MeasurementRecord
from reports.frames.run import load
from reports.pages.run_page import write
from reports.sections.fine_tuning import curve_charts, curve_tables, curves, results


def training(store: RunStore, recipe: str, accuracies: list[float]) -> None:
    for epoch, accuracy in enumerate(accuracies, start=1):
        store.append(
            MeasurementRecord(
                run=store.run,
                suite="transfer",
                architecture=recipe,
                subject="<b>net</b>",
                comparison="digits",
                quantity="accuracy",
                samples=(accuracy,),
                mode="train",
                details={"recipe": recipe, "epoch": epoch, "step": 10 * epoch, "seconds": 2.0 * epoch, "loss": 0.5},
            )
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = RunStore(tmp_path, "run")
    store.environment({"finished": "2026-01-01"})
    training(store, "full_fine_tuning", [0.5, 0.9])
    training(store, "lp_ft", [0.6, 0.85])
    store.close()
    return store.folder


def test_results_compare_after_as_many_steps(folder: Path) -> None:
    frame = curves(load(folder))
    assert len(frame) == 4
    last = results(frame).set_index("recipe")
    assert last.loc["lp_ft", "difference"] == pytest.approx(-0.05)
    assert last.loc["full_fine_tuning", "difference"] == 0.0
    assert results(frame[frame["recipe"] == "lp_ft"])["difference"].isna().all()


def test_page_has_the_curves_and_escapes_names(folder: Path) -> None:
    text = write(folder).read_text()
    assert 'id="fine-tuning"' in text
    assert "-5.0 points" in text
    assert "<b>net</b>" not in text


def test_nothing_trained_gives_nothing(folder: Path) -> None:
    frame = curves(load(folder)).iloc[:0]
    assert curve_charts(frame) == []
    assert curve_tables(frame) == []
