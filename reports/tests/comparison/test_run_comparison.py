"""Planted changes between two runs are found, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.schema import Record
from reports.comparison.run_comparison import compare
from reports.frames.run import Run, load
from reports.tests.made_runs import A_A, ENVIRONMENT, check, compared, write_run


def test_planted_check_changes(run: Run, earlier: Run) -> None:
    found = compare(earlier, run).checks
    assert {(r["change"], r["subject"], r["check"]) for r in found.to_dict("records")} == {
        ("newly failing", "mine", "skip_gradient"),
        ("newly passing", "mine", "shapes"),
        ("new", "torchvision.models", "flops"),
        ("gone", "ours", "retired"),
        ("changed", "ours", "torch_compile"),
    }
    assert found["change"].iloc[0] == "newly failing"
    assert "join 3 is detached" in found["message"].iloc[0]


def test_planted_speed_and_memory_changes(run: Run, earlier: Run) -> None:
    comparison = compare(earlier, run)
    speeds = comparison.speeds
    faster = speeds[speeds["verdict"] == "faster"]
    assert set(zip(faster["architecture"], faster["mode"], faster["reference"], strict=True)) == {
        ("resnet50", "infer", "torchvision"),
        ("resnet50", "infer", "timm"),
    }
    assert list(faster["change"]) == pytest.approx([1.3, 1.3], rel=1e-6)
    assert not (speeds["verdict"] == "slower").any()
    larger = comparison.memory[comparison.memory["verdict"] == "larger"]
    assert list(larger["mode"]) == ["train"]
    assert list(larger["change"]) == [2.0]
    assert set(comparison.memory["verdict"]) == {"larger", "same"}


def test_a_changed_reference_is_named(run: Run, earlier: Run) -> None:
    comparison = compare(earlier, run)
    assert comparison.environment.to_dict("records") == [{"fact": "timm", "before": "1.0.19", "after": "1.0.20"}]
    notes = dict(zip(comparison.speeds["reference"], comparison.speeds["note"], strict=True))
    assert notes["timm"] == "timm went from 1.0.19 to 1.0.20: the change may be the reference's"
    assert notes["torchvision"] == ""


def test_the_sentence(run: Run, earlier: Run) -> None:
    said = compare(earlier, run).sentence
    assert said.startswith("1 newly failing, 1 newly passing, 1 gone, 1 new, 1 changed")
    assert "2 faster, 0 slower" in said
    assert "1 with more memory, 0 with less" in said


def test_a_run_against_itself_has_no_change(run: Run) -> None:
    comparison = compare(run, run)
    assert len(comparison.checks) == len(comparison.environment) == 0
    assert set(comparison.memory["verdict"]) == {"same"}
    assert not set(comparison.speeds["verdict"]) & {"faster", "slower"}


def _run(folder: Path, records: list[Record]) -> Run:
    return load(write_run(folder, records, ENVIRONMENT))


def test_a_machine_of_half_the_speed_changes_nothing(tmp_path: Path) -> None:
    """Ratios are compared, so what slows subject and reference alike isn't seen as a change."""
    from dataclasses import replace

    from harness.records.schema import MeasurementRecord

    rows = compared("resnet18", "infer", 0.018)
    slow = [
        replace(r, samples=tuple(2 * s for s in r.samples))
        if isinstance(r, MeasurementRecord) and r.quantity == "latency"
        else r
        for r in rows
    ]
    speeds = compare(_run(tmp_path / "a", rows), _run(tmp_path / "b", slow)).speeds
    assert set(speeds["verdict"]) == {"no difference seen"}
    assert list(speeds["change"]) == pytest.approx([1.0, 1.0])


def test_a_change_within_the_noise_of_both_runs_is_not_claimed(tmp_path: Path) -> None:
    """Each A/A pair has a floor of 0.72 %: a change of 1.2 % is under their sum, one of 1.6 % is over it."""
    before = _run(tmp_path / "before", compared("resnet18", "infer", 0.018))
    near = compare(before, _run(tmp_path / "near", compared("resnet18", "infer", 0.018 / 1.012))).speeds
    far = compare(before, _run(tmp_path / "far", compared("resnet18", "infer", 0.018 / 1.016))).speeds
    assert set(near["verdict"]) == {"no difference seen"}
    assert set(far["verdict"]) == {"faster"}
    assert far["floor"].iloc[0] == pytest.approx(2 * A_A, rel=1e-2)


def test_runs_with_nothing_in_common_compare(tmp_path: Path) -> None:
    empty, one = _run(tmp_path / "empty", []), _run(tmp_path / "one", [check("shapes"), check("flops", "failed")])
    assert list(compare(empty, one).checks["change"]) == ["newly failing", "new"]
    assert list(compare(one, empty).checks["change"]) == ["gone", "gone"]
    assert compare(empty, empty).sentence == "No check in common."
