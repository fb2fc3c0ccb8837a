"""The page of a library's models."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.run_store import RunStore
from harness.records.schema import CheckRecord, MeasurementRecord, Outcome
from reports.frames.ratios import speeds
from reports.frames.run import load
from reports.pages.run_page import write
from reports.sections.zoo import sentence, zoo, zoo_charts, zoo_tables


def check(architecture: str, name: str, outcome: Outcome = "passed") -> CheckRecord:
    bad = outcome == "failed"
    return CheckRecord(
        run="r",
        suite="zoo",
        architecture=architecture,
        subject="timm.models",
        check=name,
        outcome=outcome,
        message="no gradient reaches <head>" if bad else "",
        reproduce=f"pytest 'zoo::t[{architecture}]'" if bad else "",
        seconds=1.5,
        details={"side": 64, "parameters": 1000} if name == "gradients" else {},
    )


def latency(architecture: str, seconds: float) -> MeasurementRecord:
    return MeasurementRecord(
        run="r",
        suite="zoo",
        architecture=architecture,
        subject="timm.models",
        comparison=architecture,
        quantity="latency",
        samples=(seconds,) * 5,
        batch_size=2,
        test=architecture,
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    store = RunStore(tmp_path, "r")
    for record in (
        check("lcnet_050", "gradients"),
        check("lcnet_050", "export", "skipped"),
        check("odd_net", "gradients", "failed"),
        check("odd_net", "export"),
        latency("lcnet_050", 0.5),
        latency("odd_net", 0.1),
    ):
        store.append(record)
    store.environment({})
    store.close()
    return tmp_path / "r"


def test_a_row_per_model(run_folder: Path) -> None:
    run = load(run_folder)
    frame = zoo(run, speeds(run)).set_index("architecture")
    assert list(frame["verdict"]) == ["holds", "doesn't hold"]
    assert frame.loc["lcnet_050", "skipped"] == 1
    assert frame.loc["lcnet_050", "pixels"] == 64
    assert frame.loc["odd_net", "wrong"] == "gradients"
    assert frame.loc["odd_net", "reproduce"] == "pytest 'zoo::t[odd_net]'"
    assert frame.loc["lcnet_050", "images_per_second"] == pytest.approx(4)


def test_the_page_lists_what_holds_and_what_does_not(run_folder: Path) -> None:
    run = load(run_folder)
    frame = zoo(run, speeds(run))
    assert sentence(frame).startswith("Of 2 models of timm.models, 1 keep every general promise and 1 don't.")
    assert [t.name for t in zoo_tables(frame)] == ["zoo-broken", "zoo-models"]
    page = write(run_folder).read_text()
    assert 'id="zoo"' in page
    assert "no gradient reaches &lt;head&gt;" in page
    assert "Suite zoo" not in page


def test_without_models_there_is_nothing(tmp_path: Path) -> None:
    store = RunStore(tmp_path, "r")
    store.environment({})
    store.close()
    run = load(tmp_path / "r")
    frame = zoo(run, speeds(run))
    assert not len(frame)
    assert not zoo_tables(frame)
    assert not zoo_charts(frame)
