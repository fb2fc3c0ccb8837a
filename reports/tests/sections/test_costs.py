"""Memory by kind, the roofline and the front of throughput: the planted figures, and nothing where nothing is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.records.schema import Record
from reports.frames.ratios import speeds
from reports.frames.run import Run, load
from reports.sections.costs import cost_charts, memory_by_kind, memory_chart
from reports.sections.roofline import front, pareto_charts, roofline, roofline_charts
from reports.sections.section import Source
from reports.tests.made_runs import compared, latency, measured, write_run


def made(folder: Path, records: list[Record]) -> Run:
    return load(write_run(folder, records))


def test_kinds_add_up_beside_the_prediction(tmp_path: Path) -> None:
    kinds = {"parameters": 40e6, "activations": 10e6, "workspace": 5e6, "gradients": 0}
    rows: list[Record] = [
        measured("peak_memory", (15e6,), details={"breakdown": kinds}),
        measured("predicted_memory", (50e6,), details={"measured": 55e6}),
    ]
    found = memory_by_kind(made(tmp_path / "run", rows))
    assert list(found["kind"]) == ["parameters", "activations", "workspace"]
    assert found["bytes"].sum() == found["measured"].iloc[0] == 55e6
    assert set(found["predicted"]) == {50e6}
    chart = memory_chart(found)
    assert chart is not None
    assert "predicted" in chart.caption


def test_what_was_not_recorded_is_not_drawn(tmp_path: Path) -> None:
    bare = made(tmp_path / "run", [latency(0.1)])
    known, names = speeds(bare), Source(run=bare).names
    assert memory_chart(memory_by_kind(bare)) is None
    assert cost_charts(bare, names) == []
    assert roofline_charts(roofline(bare, known), names) == []
    assert pareto_charts(known, names) == []


def test_a_roof_is_the_lower_of_both_bounds(tmp_path: Path) -> None:
    machine = {"subject": "machine", "role": "machine"}
    rows = [
        *compared("resnet18", "infer", 0.5),
        measured("traffic", (14.5e9 / 2,), group="ours"),
        measured("bandwidth", (20e9,), **machine),
        measured("matmul_peak", (100e9,), **machine),
    ]
    run = made(tmp_path / "run", rows)
    found = roofline(run, speeds(run))
    assert list(found["subject"]) == ["ours"]
    row = found.iloc[0]
    assert (row["intensity"], row["roof"]) == pytest.approx((2.0, 40e9))
    assert row["roof_share"] == pytest.approx(row["achieved"] / 40e9)
    assert len(roofline_charts(found, ["ours"])) == 1


def test_every_curve_with_three_sizes_is_drawn(tmp_path: Path) -> None:
    rows: list[Record] = [latency(0.01 * b, batch_size=b, group=str(b)) for b in (1, 2, 4)]
    rows += [measured("peak_memory", (1e6 * s * s,), input_size=s, group=f"s{s}") for s in (64, 128, 256)]
    charts = cost_charts(made(tmp_path / "run", rows), ["ours"])
    assert [chart.name for chart in charts] == ["cost-latency-batch-size", "cost-peak-memory-input-size"]
    assert "2.00" in charts[1].caption


def test_curves_of_two_batch_sizes_are_told_apart(tmp_path: Path) -> None:
    rows: list[Record] = [
        measured("peak_memory", (1e6 * b * s * s,), input_size=s, batch_size=b, group=f"{s} {b}")
        for s in (64, 128, 256)
        for b in (1, 2)
    ]
    (chart,) = cost_charts(made(tmp_path / "run", rows), ["ours"])
    assert "batch 1: 2.00" in chart.caption
    assert "batch 2: 2.00" in chart.caption


def test_the_front_is_what_nothing_beats() -> None:
    assert front([1, 2, 3, 2], [10, 20, 15, 5]) == [True, True, False, False]
    assert front([1, 1], [10, 10]) == [True, False]


def test_a_wrong_subject_is_never_on_the_front(tmp_path: Path) -> None:
    rows = [
        *compared("resnet18", "infer", 0.02),
        *compared("resnet50", "infer", 0.0001, subject="mine", flag="failed eval_parity"),
        measured("parameters", (1e6,), architecture="resnet50", subject="mine", group="mine"),
    ]
    run = made(tmp_path / "run", rows)
    known = speeds(run)
    charts = pareto_charts(known, Source(run=run).names)
    assert len(charts) == 2
    for chart in charts:
        wrong = [row for row in _points(chart.spec) if row["implementation"] == "mine"]
        assert wrong
        assert not any(row["front"] for row in wrong)
        assert all(row["state"] == "not ranked" for row in wrong)


def _points(held: Any) -> list[dict[str, Any]]:
    """The rows of a specification's data that tell whether they are on the front."""
    if isinstance(held, dict):
        return [held] if "front" in held else [row for value in held.values() for row in _points(value)]
    return [row for value in held for row in _points(value)] if isinstance(held, list) else []
