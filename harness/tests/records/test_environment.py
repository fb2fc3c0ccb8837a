"""What a run ran on, and what changed when it was gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.records.environment import DECISIVE, continued, environment
from harness.records.runs import ENVIRONMENT

NOW = {"started": "later", "torch": "2.9.0", "cores": 2}


def test_facts_that_times_depend_on_are_there() -> None:
    facts = environment(["pytest", "suites"], "cpu")
    assert set(DECISIVE) <= set(facts)
    assert facts["command"] == "pytest suites"
    assert json.loads(json.dumps(facts)) == facts


def test_a_resumed_run_keeps_what_it_began_with_and_says_what_changed(tmp_path: Path) -> None:
    before = {"started": "first", "finished": "then", "torch": "2.8.0", "cores": 2}
    (tmp_path / ENVIRONMENT).write_text(json.dumps(before))
    assert continued(tmp_path, NOW) == {
        "started": "first",
        "torch": "2.8.0",
        "cores": 2,
        "resumed": ["later"],
        "warnings": ["resumed with another torch: 2.8.0 before, 2.9.0 now"],
    }


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000])
def test_an_environment_that_cannot_be_read_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ENVIRONMENT).write_bytes(content)
    assert continued(tmp_path, NOW) == {**NOW, "resumed": ["later"]}
