"""Pages of one family: depth and gradient, attention, detection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.records.schema import Record
from reports.frames.ratios import speeds
from reports.frames.run import load
from reports.pages.run_page import render
from reports.sections.detection import (
    LARGEST_PICTURE,
    coverage_charts,
    pictures,
    precision_charts,
    precision_curves,
    precision_tables,
)
from reports.sections.families import attention_charts, depth_charts, gradient_norms, scaling
from reports.tests.made_runs import ENVIRONMENT, SCRIPT, latency, measured, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    grid = {"rows": 2, "columns": 3, "image": SCRIPT, "weights": "fresh weights"}
    rows: list[Record] = [
        measured("gradient_norm", (8.0, 4.0, 2.0), architecture="resnet152", subject="with shortcuts"),
        measured("gradient_norm", (1e9, 1e4, 0.0), architecture="resnet152", subject="without shortcuts"),
        measured("attention", (0.1, 0.2, 0.1, 0.1, 0.3, 0.1), group="last layer", details=grid),
        measured("position_similarity", (1.0, 0.0, 0.5), group="torn", details=grid),
        measured("anchor_overlap", (0.2, 0.5, 0.6, 0.7, 1.0), subject="P3", details={"anchor": 32}),
        *(
            measured(
                "average_precision",
                (figure,),
                suite="detector",
                architecture="detector_resnet18",
                details={"epoch": epoch, "step": 100 * epoch, "seconds": 9.0 * epoch, "loss": 1.0, "map_50": figure},
            )
            for epoch, figure in ((1, 0.0), (2, 0.625))
        ),
    ]
    path = tmp_path / "made"
    write_run(path, rows, ENVIRONMENT)
    place = path / "pictures"
    place.mkdir()
    (place / "ours-0.jpg").write_bytes(b"\xff\xd8 small")
    (place / "ours-1.jpg").write_bytes(b"\xff\xd8" + b"0" * LARGEST_PICTURE)
    (place / "captions.json").write_text(json.dumps({"ours-0.jpg": f"two {SCRIPT}"}))
    return path


def test_gradient_norms_are_relative_to_the_last_stage(folder: Path) -> None:
    norms = gradient_norms(load(folder))
    assert list(norms["norm"]) == [4.0, 2.0, 1.0]  # a network whose last norm is zero has none
    (chart,) = depth_charts(norms)
    assert "gradient" in chart.caption


def test_attention_needs_the_shape_of_its_grid(folder: Path) -> None:
    (chart,) = attention_charts(load(folder))
    assert "nothing that was learnt" in chart.caption
    assert chart.spec["data"] if "data" in chart.spec else chart.spec["datasets"]


def test_precision_over_the_epochs(folder: Path) -> None:
    curves = precision_curves(load(folder))
    assert list(curves["map_50"]) == [0.0, 0.625]
    assert len(precision_charts(curves)) == 1
    (table,) = precision_tables(curves)
    assert "0.625" in [cell.text for cell in table.rows[0].cells]
    (chart,) = coverage_charts(load(folder))
    assert "32 px" in json.dumps(chart.spec)
    (values,) = chart.spec["datasets"].values()
    counts = {v["fit"]: v["boxes"] for v in values}
    assert counts == {"under 0.5": 1, "0.5 to 0.7": 2, "0.7 or more": 2}


def test_pictures_are_in_the_page_and_large_ones_are_not(folder: Path) -> None:
    (found,) = pictures(folder)
    assert found.caption == f"two {SCRIPT}"
    page = render(load(folder))
    assert found.address in page
    assert SCRIPT not in page


def test_a_run_without_any_of_it_has_no_such_parts(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    write_run(path, [measured("latency", (0.1, 0.2))], ENVIRONMENT)
    run = load(path)
    assert not depth_charts(gradient_norms(run))
    assert not attention_charts(run)
    assert not precision_charts(precision_curves(run))
    assert not coverage_charts(run)
    assert not pictures(path)
    page = render(run)
    assert all(f'id="{part}"' not in page for part in ("depth", "attention", "detection"))


def test_a_scaling_is_over_one_batch_size(tmp_path: Path) -> None:
    """An architecture that was measured with another batch too has one point, at the batch that all have."""
    path = tmp_path / "batches"
    rows: list[Record] = [
        latency(0.1 * (i + 1), architecture=f"efficientnet_b{i}", suite="efficientnet", batch_size=1) for i in range(3)
    ]
    rows.append(latency(0.4, architecture="efficientnet_b0", suite="efficientnet", batch_size=8, comparison="other"))
    write_run(path, rows, ENVIRONMENT)
    run = load(path)
    found = scaling(run, speeds(run))
    measured_ones = found[found["source"] == "measured"]
    assert list(measured_ones["architecture"]) == ["efficientnet_b0", "efficientnet_b1", "efficientnet_b2"]
