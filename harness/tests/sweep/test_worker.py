"""A task as a process of its own: started anew, or forked from one that has imported the libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.process import fork_server
from harness.sweep.staging import ROOT
from harness.sweep.tasks import Case, Task, TaskEnded
from harness.sweep.worker import run

FORMS = pytest.mark.parametrize("forked", [False, True], ids=["anew", "forked"])
TESTS = """
import os
import time


def test_passes():
    assert os.environ["SAID"] == "so"


def test_fails():
    assert False


def test_dies():
    os._exit(7)


def test_hangs():
    time.sleep(600)
"""

OPTIONS = """
def pytest_addoption(parser):
    parser.addoption("--results")
"""


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    fork_server.stop()


def ended(tmp_path: Path, name: str, *, forked: bool, timeout: float = 120.0) -> TaskEnded:
    path = tmp_path / "test_task.py"
    path.write_text(TESTS)
    (tmp_path / "conftest.py").write_text(OPTIONS)
    task = Task(suite="s", subject="ours", architecture="a", cases=(Case(test=f"{path}::{name}", check="c"),))
    (*_, last) = run(task, [], directory=ROOT, timeout=timeout, environment={"SAID": "so"}, forked=forked)
    assert isinstance(last, TaskEnded)
    return last


@FORMS
def test_how_it_ended(tmp_path: Path, forked: bool) -> None:
    assert ended(tmp_path, "test_passes", forked=forked) == TaskEnded()
    assert ended(tmp_path, "test_fails", forked=forked) == TaskEnded(failed=True)
    assert "the process ended with code 7" in ended(tmp_path, "test_dies", forked=forked).reason
    assert ended(tmp_path, "no_such_test", forked=forked).hopeless


def test_what_takes_too_long_is_stopped(tmp_path: Path) -> None:
    last = ended(tmp_path, "test_hangs", forked=False, timeout=1.0)
    assert last.reason == "did not come back within --task-timeout (1 s): stopped"
