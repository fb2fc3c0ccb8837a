"""Text that must stay as recorded. To record it anew on purpose: ``RECORD_PINS=1 pytest harness/tests/pinned``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import run

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def expect_as_recorded(name: str, text: str, *, reflow: bool = False) -> None:
    """Fail where ``text`` isn't what the file ``name`` holds; with ``reflow`` line breaks and indents may differ."""
    __tracebackhide__ = True
    path = HERE / name
    if os.environ.get("RECORD_PINS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        pytest.skip(f"recorded {name}")
    recorded = path.read_text(encoding="utf-8")
    if reflow:
        assert text.split() == recorded.split(), f"{name} has changed"
    else:
        assert text.splitlines() == recorded.splitlines(), f"{name} has changed"


def output_of(arguments: list[str], home: Path, *, code: int = 0) -> str:
    """What Python prints for these arguments in the project's folder, 100 columns wide, and ends with ``code``."""
    settings = {"COLUMNS": "100", "HOME": str(home), "NO_COLOR": "1", "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    inherited = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "PY_COLORS", "PYTEST_ADDOPTS")}
    command = [sys.executable, *arguments]
    done = run(command, cwd=ROOT, env=inherited | settings, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
