"""A task as a process of its own: started anew, or forked from one that has imported the libraries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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
import sys
import time


def test_passes():
    open({log!r}, "a").write(f"{{os.getpid()}} {{'torch._dynamo' in sys.modules}} {{os.environ['SAID']}}\\n")


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
    path.write_text(TESTS.format(log=str(tmp_path / "log")))
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
    assert ended(tmp_path, "test_passes", forked=forked) == TaskEnded()
    assert ended(tmp_path, "no_such_test", forked=forked).hopeless
    (first, imported, said), (second, *_) = (line.split() for line in (tmp_path / "log").read_text().splitlines())
    assert first != second
    assert imported == str(forked)
    assert said == "so"


@FORMS
def test_what_takes_too_long_is_stopped(tmp_path: Path, forked: bool) -> None:
    last = ended(tmp_path, "test_hangs", forked=forked, timeout=1.0)
    assert last.reason == "did not come back within --task-timeout (1 s): stopped"


def test_nothing_outlives_who_started_it(tmp_path: Path) -> None:
    """A worker that is killed takes its server along, and what that has forked."""
    program = (
        "import sys; from pathlib import Path; from harness.sweep import warm\n"
        "started = warm.start(['-p', 'harness.sweep.pytest_plugin', sys.argv[1]], Path(sys.argv[2]), Path.cwd(), {})\n"
        "print(started.pid, flush=True)\nstarted.wait()"
    )
    (tmp_path / "test_task.py").write_text(TESTS.format(log=str(tmp_path / "log")))
    command = [sys.executable, "-c", program, f"{tmp_path / 'test_task.py'}::test_hangs", str(tmp_path / "output")]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    forked = int(worker.stdout.readline())
    os.kill(forked, 0)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    end = time.monotonic() + 60
    while time.monotonic() < end and _alive(forked):
        time.sleep(0.1)
    assert not _alive(forked)


def test_a_dead_server_is_replaced(tmp_path: Path) -> None:
    assert ended(tmp_path, "test_passes", forked=True) == TaskEnded()
    fork_server._kept["server"]._process.kill()
    fork_server._kept["server"]._process.wait()
    assert ended(tmp_path, "test_passes", forked=True) == TaskEnded()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
