"""The folder of a run: opened, killed, resumed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from harness.tests.judged import ROOT, run
from reports.frames.run import load


def test_a_results_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    done = run(tmp_path, "--arch", "resnet18", "-k", "parameters")
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert "give --results DIR" in done.error()


def test_a_benchmark_without_a_subject_keeps_its_rows_too(tmp_path: Path) -> None:
    (tmp_path / "test_alone.py").write_text(
        "import pytest\nfrom harness.records.schema import MeasurementRecord\n\n\n"
        "@pytest.mark.speed\ndef test_alone(session, benchmark):\n    benchmark.pedantic(int, rounds=2)\n"
        "    session.record(MeasurementRecord(run=session.id, suite='detector', architecture='detector_resnet50',\n"
        "        subject='ours', role='subject', mode='infer', device='cpu', batch_size=1, input_size=64,\n"
        "        quantity='latency', samples=(1.0, 2.0), comparison='x', test='x'))\n"
    )
    alone = ("-p", "harness.plugin", "-c", str(ROOT / "pyproject.toml"))
    skipped = run(tmp_path, *alone, suite=str(tmp_path / "test_alone.py"))
    assert skipped.code == pytest.ExitCode.OK, skipped.out
    assert not skipped.results.exists(), "a benchmark that is skipped opens no folder"
    done = run(tmp_path, *alone, "--benchmark", suite=str(tmp_path / "test_alone.py"))
    assert done.code == pytest.ExitCode.OK, done.out
    assert [(r["quantity"], r["samples"]) for r in done.rows] == [("latency", [1.0, 2.0])]
    assert f"records: {done.folder / 'records.jsonl'}" in done.out
    assert (done.folder / "report.html").is_file(), done.out


def test_a_killed_run_keeps_every_row_that_it_had(tmp_path: Path) -> None:
    dying = (
        "import os, signal\nfrom suites.resnet import model\n\ncalls = []\n\n\n"
        "def resnet18(num_classes=1000):\n    calls.append(1)\n    return model.resnet18(num_classes=num_classes)\n\n\n"
        "def resnet34(num_classes=1000):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run(tmp_path, "-k", "parameters", subjects={"dying": dying})
    assert done.code == -signal.SIGKILL, done.out
    kept = load(done.folder)
    assert not kept.complete
    assert any("did not finish" in notice for notice in kept.notices)
    assert list(kept.checks["architecture"]) == ["resnet18"]
    assert list(kept.checks["outcome"]) == ["passed"]
    assert kept.corrupt_lines == 0


def test_a_killed_run_is_resumed_with_what_is_missing(tmp_path: Path) -> None:
    dying = (
        "import os, pathlib, signal\nfrom suites.resnet import model\n\nresnet18 = model.resnet18\n"
        f"once = pathlib.Path({str(tmp_path / 'once')!r})\n\n\n"
        "def resnet34(num_classes=1000):\n    if not once.exists():\n        once.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n    return model.resnet34(num_classes=num_classes)\n"
    )
    first = run(tmp_path, "-k", "parameters", subjects={"dying": dying})
    assert first.code == -signal.SIGKILL, first.out
    with (first.folder / "records.jsonl").open("ab") as file:
        file.write(b'{"kind": "check", "torn')
    again = run(tmp_path, "-k", "parameters", "--resume", first.folder.name, subjects={"dying": dying})
    assert again.code == pytest.ExitCode.OK, again.out
    assert again.folder == first.folder
    assert "1 passed" in again.out
    kept = load(again.folder)
    assert kept.complete
    assert kept.corrupt_lines == 0
    assert list(kept.checks["architecture"]) == ["resnet18", "resnet34"]
    assert len(kept.environment["resumed"]) == 1
    nothing = run(tmp_path, "-k", "parameters", "--resume", first.folder.name, subjects={"dying": dying})
    assert nothing.code == pytest.ExitCode.OK
    assert "nothing is missing" in nothing.out
