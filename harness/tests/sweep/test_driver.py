"""A whole sweep on this machine, from the command line to the records."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.sweep.staging import ROOT

pytest.importorskip("ray", reason="sweeps need Ray: pip install -e '.[sweep]'")
SUBJECTS = """
import os
from suites.resnet.model import resnet18


def resnet34(num_classes=1000):
    os._exit(7)
"""


def test_a_sweep_on_this_machine(tmp_path: Path) -> None:
    """One architecture passes and one ends its process each time: rows for both, and exit code 1."""
    (tmp_path / "mine.py").write_text(SUBJECTS)
    command = [sys.executable, "-m", "harness.sweep", "suites/resnet", "--subject", str(tmp_path / "mine.py")]
    command += ["-k", "parameters", "--attempts", "2", "--results", str(tmp_path / "results")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 1, done.stdout + done.stderr
    (run,) = (tmp_path / "results").iterdir()
    rows = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert {r["architecture"]: r["outcome"] for r in rows} == {"resnet18": "passed", "resnet34": "error"}
    (lost,) = [r for r in rows if r["outcome"] == "error"]
    assert "no verdict: the process ended with code 7" in lost["message"]
    assert "tried 2 times" in lost["message"]
    given = ["--subject", str(tmp_path / "mine.py"), "-k", "parameters"]
    assert shlex.split(lost["reproduce"]) == ["pytest", lost["test"], *given]
    assert {r["run"] for r in rows} == {run.name}
    assert all(r["details"]["placement"]["cores"] for r in rows)
    environment_facts = json.loads((run / "environment.json").read_text())
    assert len(environment_facts["nodes"]) == 1
    assert environment_facts["finished"]
    assert "resnet34 of mine: WRONG" in done.stdout
    assert f"python -m reports {run}" in done.stdout
