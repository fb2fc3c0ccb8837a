"""CI's workflows: valid, pinned, and with no more rights than they need."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def test_they_hold_to_the_schema() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is a test extra")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, *map(str, WORKFLOWS)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_rights_are_few(workflow: Path) -> None:
    text = workflow.read_text()
    used = [line.strip() for line in text.splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not PINNED.search(line)] == []
    assert re.search(r"^permissions:( \{\}|\n  contents: read)\n", text, re.MULTILINE)
    assert "write-all" not in text
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")
    assert "pull_request_target" not in text


def test_one_action_has_one_version() -> None:
    found: dict[str, set[str]] = {}
    for workflow in WORKFLOWS:
        for name, commit in re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40})", workflow.read_text()):
            found.setdefault(name, set()).add(commit)
    assert {name: commits for name, commits in found.items() if len(commits) > 1} == {}


def test_what_they_run_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {t for w in WORKFLOWS for t in re.findall(r"\bmake ([\w-]+)", w.read_text())}
    assert asked
    assert asked <= targets
