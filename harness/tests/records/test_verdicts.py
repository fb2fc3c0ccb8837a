"""One verdict, wherever it is told: in the terminal, on the page, in the rows of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.run_store import RunStore
from harness.records.schema import Outcome, Record
from harness.records.verdicts import HUNG, Verdict, Verdicts
from harness.sweep.merged_run import MergedRun
from reports.frames.ratios import ratios
from reports.frames.run import load, measurements
from reports.sections.checks import verdict
from reports.tests.made_runs import check, latency, measured, write_run


def of(*found: tuple[str, Outcome]) -> Verdict:
    return Verdicts(check(name, outcome) for name, outcome in found).of("resnet", "resnet18", "ours")


@pytest.mark.parametrize(
    ("found", "word", "reason"),
    [
        ([], "not judged", ""),
        ([("shapes", "skipped")], "not judged", ""),
        ([("shapes", "passed"), ("flops", "skipped")], "right", ""),
        ([("shapes", "passed"), ("flops", "failed"), ("copies", "failed")], "WRONG", "failed copies, flops"),
        ([("shapes", "passed"), ("flops", "error")], "WRONG", "raised an error in flops"),
        ([("shapes", "error"), ("flops", "failed"), ("copies", "xfailed")], "WRONG", "failed flops"),
        ([("shapes", "passed"), ("flops", "xfailed")], "right", "is known to fail flops"),
        ([("flops", "xfailed")], "not judged", "is known to fail flops"),
        ([("shapes", "passed"), ("speed_infer", "error")], "right", ""),
        ([("speed_infer", "passed"), ("measured_against_timm", "skipped")], "not judged", ""),
        ([("shapes", "failed"), ("shapes", "passed"), ("shapes", "failed")], "WRONG", "failed shapes"),
    ],
)
def test_the_word_and_the_reason(found: list[tuple[str, Outcome]], word: str, reason: str) -> None:
    assert (of(*found).word, of(*found).not_ranked) == (word, reason)


def test_a_line_counts_every_row_and_names_every_failure() -> None:
    rows: list[Record] = [check("shapes"), check("flops", "failed"), check("speed_infer", "error"), latency(0.01)]
    assert Verdicts(rows).lines() == ["resnet18 of ours: WRONG (1 error, 1 failed, 1 passed): flops, speed_infer"]


def test_subjects_of_two_suites_are_two() -> None:
    verdicts = Verdicts([check("shapes"), check("shapes", "failed", suite="zoo")])
    assert verdicts.lines() == [
        "resnet18 of ours in resnet: right (1 passed)",
        "resnet18 of ours in zoo: WRONG (1 failed): shapes",
    ]
    assert verdicts.of("resnet", "resnet18", "ours").not_ranked == ""


def test_the_first_check_in_which_it_hung() -> None:
    assert of(("shapes", "failed")).hung == ""
    rows = [check("a"), check("b", "error", message=f"x {HUNG} (5 s)"), check("c", "failed", message=HUNG)]
    assert Verdicts(rows).of("resnet", "resnet18", "ours").hung == "b"
    told = check("d", "skipped", message=f"ours {HUNG} in b")
    assert Verdicts([told]).of("resnet", "resnet18", "ours").hung == ""


ONE_BENCHMARK_FAILED: list[Record] = [check("shapes"), check("speed_infer", "error")]


def test_the_page_calls_right_what_the_terminal_calls_right(tmp_path: Path) -> None:
    """A benchmark that could not be measured says nothing about being right, and is said all the same."""
    run = load(write_run(tmp_path / "run", ONE_BENCHMARK_FAILED))
    assert Verdicts(ONE_BENCHMARK_FAILED).lines()[0].startswith("resnet18 of ours: right ")
    assert verdict(run, ratios(run)) == ("held", "All 1 check held, on 1 subject; 1 benchmark could not be measured.")


def test_a_measurement_alone_is_no_verdict(tmp_path: Path) -> None:
    run = load(write_run(tmp_path / "run", [check("speed_infer"), check("measured_against_timm", "skipped")]))
    assert Verdicts([check("speed_infer")]).lines() == ["resnet18 of ours: not judged (1 passed)"]
    assert verdict(run, ratios(run))[0] == "unknown"


@pytest.mark.parametrize("outcome", ["failed", "error", "xfailed"])
def test_a_sweep_flags_what_the_page_does_not_rank(tmp_path: Path, outcome: Outcome) -> None:
    failed = check("shapes", outcome)
    page = measurements(load(write_run(tmp_path / "run", [failed, measured("flops", (1.0,))])))
    merged = MergedRun(RunStore(tmp_path, "sweep"), [failed])
    reason = merged.verdicts.of("resnet", "resnet18", "ours").not_ranked
    merged.close()
    assert reason
    assert list(page["flag"]) == [f"{reason} in this run"]
