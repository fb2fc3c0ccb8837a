"""Golden numbers of the frames, and their columns when there is nothing in them."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from harness.records.schema import MeasurementRecord
from harness.statistics.ratios import INSTANCE_SCATTER
from reports.frames.ratios import ratios, speeds
from reports.frames.run import Run, checks, load, measurements, samples
from reports.tests.made_runs import A_A, check, compared, every_outcome, latency, measured, write_run


def _ratio(run: Run, subject: str, architecture: str, mode: str, reference: str) -> pd.Series:
    frame = ratios(run)
    found = frame[
        (frame["subject"] == subject)
        & (frame["architecture"] == architecture)
        & (frame["mode"] == mode)
        & (frame["reference"] == reference)
    ]
    assert len(found) == 1
    return found.iloc[0]


def test_ratios(run: Run) -> None:
    row = _ratio(run, "ours", "resnet18", "infer", "torchvision")
    # Times of 18 against 20 ms. The reference's jitter of 0.2 % is that of both instances together, 0 % and 0.4 %.
    apart = math.exp(1.95996 * math.sqrt(3 / 2) * INSTANCE_SCATTER)  # two instances against one
    for bound, factor in (("low", 1 / apart), ("ratio", 1.0), ("high", apart)):
        assert row[bound] == pytest.approx(20 / 18 * factor, rel=1e-4)
    assert row["noise_floor"] == pytest.approx(A_A, rel=1e-2)
    assert (row["verdict"], row["rounds"], row["flag"], row["note"]) == ("faster", 12, "", "")
    assert row["memory_ratio"] == pytest.approx(0.98)


@pytest.mark.parametrize(
    ("mode", "architecture", "reference", "verdict"),
    [
        ("infer", "resnet50", "torchvision", "slower"),
        ("train", "resnet50", "timm", "no difference seen"),
        ("train", "resnet18", "torchvision", "slower"),
    ],
)
def test_verdicts(run: Run, mode: str, architecture: str, reference: str, verdict: str) -> None:
    assert _ratio(run, "ours", architecture, mode, reference)["verdict"] == verdict


def test_a_subject_that_failed_a_check_or_is_flagged_is_never_ranked(run: Run) -> None:
    wrong = _ratio(run, "mine", "resnet18", "infer", "timm")
    assert (wrong["verdict"], wrong["flag"]) == ("not ranked", "failed skip_gradient in this run")
    assert wrong["ratio"] == pytest.approx(2.5, rel=1e-5)  # shown all the same
    flagged = ratios(run)[ratios(run)["flag"].str.startswith("failed parity")]
    assert set(flagged["verdict"]) == {"not ranked"}


def test_a_missing_reference_is_said(run: Run) -> None:
    row = _ratio(run, "alone", "x" * 300, "infer", "")
    assert (row["verdict"], row["note"]) == ("cannot tell", "no reference was measured with it")
    assert math.isnan(row["ratio"])


def test_speeds(run: Run) -> None:
    frame = speeds(run)
    ours = frame[(frame["subject"] == "ours") & (frame["architecture"] == "resnet18")]
    row = ours[ours["mode"] == "infer"].iloc[0]
    assert row["images_per_second"] == pytest.approx(4 / 0.018)
    assert row["median"] == pytest.approx(0.018)
    assert row["p95"] == pytest.approx(0.018 * 1.0245)  # linear between the two largest of twelve
    assert row["p99"] == pytest.approx(0.018 * 1.0289)
    assert (row["peak_memory"], row["parameters"], row["flops"]) == (98e6, 11_689_512, 14.5e9)
    assert row["achieved"] == pytest.approx(14.5e9 / 0.018)
    assert row["peak_share"] == pytest.approx(14.5e9 / 0.018 / 1.2e12)


def test_samples_hold_every_raw_value(run: Run) -> None:
    frame = samples(run)
    assert len(frame) == measurements(run)["rounds"].sum()
    peak = frame[frame["quantity"] == "matmul_peak"]
    assert list(peak["value"]) == [1.1e12, 1.2e12, 1.3e12]
    assert list(peak["round"]) == [0, 1, 2]
    assert set(peak["unit"]) == {"flop/s"}


def test_frames_of_an_empty_run_have_all_columns_and_types(tmp_path: Path, run: Run) -> None:
    empty = load(write_run(tmp_path / "empty", []))
    for make in (checks, measurements, samples, speeds, ratios):
        frame = make(empty)
        assert len(frame) == 0
        assert frame.dtypes.to_dict() == make(run).dtypes.to_dict()


def test_frames_are_copies(run: Run) -> None:
    frame = ratios(run)
    frame["ratio"] = 0.0
    assert (ratios(run)["ratio"] != 0).all()


def _lone(tmp_path: Path, *records: MeasurementRecord) -> pd.Series:
    return ratios(load(write_run(tmp_path / "run", list(records)))).iloc[0]


def test_without_a_pair_of_its_own_nothing_is_claimed(tmp_path: Path) -> None:
    row = _lone(tmp_path, latency(0.01), latency(0.02, subject="timm", role="reference"))
    assert (row["verdict"], row["note"]) == ("cannot tell", "no A/A pair, so no noise floor")
    assert row["ratio"] == pytest.approx(2.0)


def test_rounds_that_do_not_pair_are_said(tmp_path: Path) -> None:
    row = _lone(tmp_path, latency(0.01), latency(0.02, subject="timm", role="reference", rounds=5))
    assert row["verdict"] == "cannot tell"
    assert "12 rounds of the subject against 5" in row["note"]


def test_one_round_and_zero_times_read(tmp_path: Path) -> None:
    one = _lone(tmp_path, latency(0.01, rounds=1), latency(0.02, subject="timm", role="reference", rounds=1))
    assert one["verdict"] == "cannot tell"
    zero = _lone(tmp_path / "zero", latency(0.0), latency(0.02, subject="timm", role="reference"))
    assert zero["verdict"] == "cannot tell"
    assert "not a possible time" in zero["note"]


def test_a_rerun_replaces_its_first_attempt(tmp_path: Path) -> None:
    records = [*compared("resnet18", "infer", 0.040), *compared("resnet18", "infer", 0.010)]
    run = load(write_run(tmp_path / "run", records))
    assert list(ratios(run)["ratio"]) == pytest.approx([2.0, 2.5], rel=1e-4)
    assert len(speeds(run)) == 3


def test_what_is_expected_to_fail_is_flagged_too(tmp_path: Path) -> None:
    run = load(write_run(tmp_path / "run", [check("parameters", "xfailed"), measured("flops", (1.0,))]))
    assert list(measurements(run)["flag"]) == ["is known to fail parameters in this run"]


def test_every_row_of_the_made_run_is_there(run: Run) -> None:
    assert set(checks(run)["outcome"]) == {"passed", "failed", "skipped", "xfailed", "error"}
    assert len(checks(run)) == sum(record.kind == "check" for record in every_outcome())
    assert run.corrupt_lines == 1
