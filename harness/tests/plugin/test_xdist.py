"""`-n`: several processes judge, one keeps the rows."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.plugin.xdist import packed, unpacked
from harness.records.schema import CheckRecord, MeasurementRecord, Record
from harness.tests.judged import GOOD, ROOT, Run, run, tiny
from reports.frames.run import load

CHECKS = ("-k", "parameters or shapes_on_values or nan_propagation")
DIES = tiny("__import__('os')._exit(7)")


def told(done: Run) -> set[tuple[Any, ...]]:
    told = {(r["subject"], r["check"], r["outcome"], r["message"], r["test"], str(r["details"])) for r in done.rows}
    assert len(told) == len(done.rows)
    return told


def test_the_rows_are_those_of_one_process(tmp_path: Path) -> None:
    subjects = {"right": GOOD, "undefined": tiny("self.head(x.mean((2, 3))) * float('nan')")}
    runs = []
    for options in ((), ("-n", "2")):
        folder = tmp_path / f"run{len(options)}"
        folder.mkdir()
        runs.append(run(folder, *CHECKS, *options, subjects=subjects))
    alone, divided = runs
    assert alone.code == divided.code == pytest.ExitCode.TESTS_FAILED, divided.out
    assert {row[:3] for row in told(alone)} == {row[:3] for row in told(divided)}
    assert len(alone.rows) == 6
    assert told(alone) == {tuple(str(v).replace("run2", "run0") for v in row) for row in told(divided)}
    assert {r["run"] for r in divided.rows} == {divided.folder.name}
    assert load(divided.folder).complete
    assert "resnet18 of right: right (3 passed)" in divided.out

    rest = run(tmp_path / "run2", *CHECKS, "-n", "2", "--resume", divided.folder.name, subjects=subjects)
    assert rest.code == pytest.ExitCode.NO_TESTS_COLLECTED, rest.out
    assert len(rest.rows) == 6


def test_a_process_that_dies_is_a_row_and_the_others_are_judged(tmp_path: Path) -> None:
    done = run(tmp_path, *CHECKS, "-n", "2", subjects={"dies": DIES, "right": GOOD})
    assert done.code == pytest.ExitCode.TESTS_FAILED, done.out
    assert done.outcomes("right") == {"parameters": "passed", "shapes_on_values": "passed", "nan_propagation": "passed"}
    assert done.outcomes("dies")["shapes_on_values"] == "error"
    (row,) = (r for r in done.rows if r["subject"] == "dies" and r["check"] == "shapes_on_values")
    assert row["message"] == "resnet18 of dies: the process that ran this check on it died"
    assert "resnet18 of dies: WRONG" in done.out


def test_the_command_of_a_process_that_died_is_the_test_again(tmp_path: Path) -> None:
    """As printed, through the shell: with the architecture and the seed, from a folder whose name needs quotes."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    options = ("-k", "shapes_on_values", "-n", "1", "--arch", "resnet1*,resnet34", "--seed", "3")
    (row,) = run(folder, *options, subjects={"dies": DIES}).rows
    assert row["outcome"] == "error"
    assert row["message"].endswith("the process that ran this check on it died")
    assert shlex.split(row["reproduce"])[-4:] == ["--arch", "resnet1*,resnet34", "--seed", "3"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = f"{row['reproduce']} --collect-only -q"
    again = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == pytest.ExitCode.OK, again.stdout + again.stderr
    assert [line for line in again.stdout.splitlines() if "::" in line] == [row["test"]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--benchmark", "-n", "2"), "--benchmark -n 2: what is measured side by side is disturbed; leave out -n"),
        (("--arch", "resnet19", "-n", "2"), "resnet19"),
    ],
)
def test_requests_without_sense(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = run(tmp_path, *options)
    assert done.code == pytest.ExitCode.USAGE_ERROR, done.out
    assert says in done.error()
    assert not done.results.exists()


def test_a_results_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    done = run(tmp_path, *CHECKS, "-n", "2", subjects={"right": GOOD})
    assert done.code == pytest.ExitCode.USAGE_ERROR, done.out
    assert "give --results DIR" in done.out
    assert "Traceback" not in done.out


def test_rows_travel_whole() -> None:
    about: dict[str, Any] = {"run": "r", "suite": "vit", "architecture": "vit_b_16", "subject": "ours"}
    rows: list[Record] = [
        CheckRecord(**about, check="shapes", outcome="passed", test="t", seconds=0.25, details={"error": 1e-13}),
        MeasurementRecord(**about, comparison="c", quantity="attention", samples=(0.25, 0.75)),
    ]
    assert unpacked(packed(rows)) == rows
