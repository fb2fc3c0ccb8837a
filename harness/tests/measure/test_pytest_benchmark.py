"""The real fixture of pytest-benchmark, in a pytest of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import pytest
import torch
from harness.measure import benchmark as benchmarks
from harness.measure import machine, rounds
from harness.measure.benchmark import Measuring
from harness.measure.setting import Setting
from harness.tests.measure.test_benchmark import Subject

benchmarks.MOST_ROUNDS = rounds.MOST_ROUNDS = 7
machine.SIDES = {"cpu": 64}
machine.COPIED = {"cpu": 4096}


@pytest.fixture
def measure(benchmark, request):
    measuring = Measuring(run="r", device=torch.device("cpu"), budget=60, record=lambda record: None)
    return lambda subject, mode: measuring.measure(benchmark, subject, Setting(mode=mode), test_id=request.node.nodeid)
"""
TESTS = """
import pytest
from torch import nn
from harness.tests.measure.test_benchmark import Subject


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_speed(measure, mode):
    measure(Subject(), mode)


def test_wrong(measure):
    measure(Subject(lambda classes: nn.Flatten()), "infer")
"""


def pytest_in(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "pytest.ini", *options]
    root = Path(__file__).parents[3]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    return tmp_path


def test_table_json_failures_and_comparison(folder: Path) -> None:
    saved = ("--benchmark-storage", "saved")
    done = pytest_in(folder, "--benchmark-only", "--benchmark-json", "out.json", "--benchmark-autosave", *saved)
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert "PytestBenchmarkWarning" not in done.stdout
    assert "tiny of mine: inference on a tensor (4, 3, 16, 16) of float32 gave a tensor (4, 768)" in done.stdout
    rows = {b["name"]: b for b in json.loads((folder / "out.json").read_text())["benchmarks"]}
    assert set(rows) == {"test_speed[infer]", "test_speed[train]"}
    for row in rows.values():
        assert row["stats"]["rounds"] == 7
        # Both clocks surround the same seven calls, pytest-benchmark's from further out.
        assert row["stats"]["median"] >= row["extra_info"]["latency_median"]
        assert row["extra_info"]["parameters"] == 785_120
    # -W: with frequency scaling, pytest-benchmark warns that the machine differs from itself.
    done = pytest_in(folder, "-k", "infer", "--benchmark-compare", *saved, "-W", "default")
    assert "1 passed" in done.stdout, done.stdout
    assert "(0001_" in done.stdout
    assert "(NOW)" in done.stdout
