"""pytest-benchmark as most people use it: the same work, timed twice, one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

TESTS = """
import pytest
import torch
from harness.measure.noise import instance

torch.set_num_threads({threads})
WORK = instance({image_size!r})


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("pair", range({pairs}))
def test_same(benchmark, pair, half):
    benchmark(WORK)
"""


def back_to_back(pairs: int, seconds: float, image_size: int | None) -> list[float]:
    """Ratio of the medians of two measurements of the same work, ``pairs`` times, each of about ``seconds``."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        tests, found = Path(folder, "test_pairs.py"), Path(folder, "found.json")
        tests.write_text(TESTS.format(pairs=pairs, threads=torch.get_num_threads(), image_size=image_size))
        command = [sys.executable, "-m", "pytest", str(tests), "-q", "-p", "no:cacheprovider", f"--rootdir={folder}"]
        options = ["-c", "/dev/null", f"--benchmark-max-time={seconds}", f"--benchmark-json={found}"]
        environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
        done = subprocess.run([*command, *options], cwd=root, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pytest-benchmark ended with code {done.returncode}: {done.stdout[-500:]}{done.stderr}")
        medians = {b["name"]: b["stats"]["median"] for b in json.loads(found.read_text())["benchmarks"]}
    return [medians[f"test_same[{p}-0]"] / medians[f"test_same[{p}-1]"] for p in range(pairs)]
