"""Runs of pytest with the plugin on made-up subjects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GOOD = "from suites.resnet.model import resnet18\n"
TINY = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, x):
        return RESULT


def resnet18(num_classes=1000):
    return Tiny(num_classes)
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run left."""

    code: int
    out: str
    results: Path

    @property
    def folder(self) -> Path:
        """The one run's folder."""
        (folder,) = self.results.iterdir()
        return folder

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its records."""
        return [json.loads(line) for line in (self.folder / "records.jsonl").read_text().splitlines()]

    def outcomes(self, subject: str) -> dict[str, str]:
        """Check -> outcome."""
        return {r["check"]: r["outcome"] for r in self.rows if r["subject"] == subject}

    def error(self) -> str:
        """The one line of an exit code 4."""
        lines = [line for line in self.out.splitlines() if line.startswith("ERROR: ")]
        assert len(lines) == 1, self.out
        assert "Traceback" not in self.out
        return lines[0].removeprefix("ERROR: ")


def tiny(result: str) -> str:
    """Source of a subject whose forward returns the expression ``result`` of ``x`` and ``self``."""
    return TINY.replace("RESULT", result)


def run(folder: Path, *options: str, subjects: dict[str, str] | None = None, suite: str = "suites/resnet") -> Run:
    """Run ``suite`` in a process of its own; ``subjects`` maps file stems to sources."""
    given = []
    for stem, source in (subjects or {}).items():
        (folder / f"{stem}.py").write_text(source)
        given += ["--subject", str(folder / f"{stem}.py")]
    results = folder / "results"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", suite, *given]
    command += ["--results", str(results), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    return Run(code=done.returncode, out=done.stdout + done.stderr, results=results)
