"""Processes that are ended with all they have started: started anew, or forked."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.process import fork_server
from harness.process.runner import PYTEST, Ended, end_of, run_process

FORMS = pytest.mark.parametrize("forked", [False, True], ids=["anew", "forked"])
TESTS = """
import os
import signal
import sys
import time


def test_passes():
    print(os.getpid(), "torch._dynamo" in sys.modules, os.environ["SAID"])


def test_fails():
    assert False


def test_leaves():
    os.write(1, b"one\\ntwo\\nthree\\nfour\\n")
    os._exit(7)


def test_is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def test_crashes():
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


def test_hangs():
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    fork_server.stop()


def ended(folder: Path, name: str, *, forked: bool, timeout: float = 0.0) -> Ended:
    (folder / "test_task.py").write_text(TESTS)
    command = [*PYTEST, "-q", "-s", "-p", "no:cacheprovider", "-c", "/dev/null", f"test_task.py::{name}"]
    return end_of(run_process(command, directory=folder, environment={"SAID": "so"}, timeout=timeout, forked=forked))


@FORMS
def test_how_it_ended(tmp_path: Path, forked: bool) -> None:
    passed = [ended(tmp_path, "test_passes", forked=forked) for _ in range(2)]
    assert [(e.code, e.reason) for e in passed] == [(0, ""), (0, "")]
    (first, imported, said), (second, *_) = (e.output.splitlines()[0].rstrip(".").split() for e in passed)
    assert first != second
    assert (imported, said) == (str(forked), "so")
    failed = ended(tmp_path, "test_fails", forked=forked)
    assert (failed.code, failed.reason) == (1, "")
    left = ended(tmp_path, "test_leaves", forked=forked)
    assert (left.code, left.reason) == (7, "the process ended with code 7, and said: two | three | four")
    killed = "the process died of SIGKILL (the system's answer to running out of memory, among others)"
    assert ended(tmp_path, "test_is_killed", forked=forked).reason == killed
    assert ended(tmp_path, "test_crashes", forked=forked).reason == "the process died of SIGSEGV"
    unknown = ended(tmp_path, "no_such_test", forked=forked)
    assert unknown.code == pytest.ExitCode.USAGE_ERROR
    assert unknown.reason.startswith("the process ended with code 4, and said: ERROR: not found: ")


@FORMS
def test_what_takes_too_long_is_stopped(tmp_path: Path, forked: bool) -> None:
    last = ended(tmp_path, "test_hangs", forked=forked, timeout=1.0)
    assert last.reason == "did not come back within --timeout (1 s): stopped"


def test_what_takes_too_much_memory_is_stopped(tmp_path: Path) -> None:
    """Its children's memory counts too."""
    child = "kept = bytearray(300_000_000); import time; time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    last = end_of(run_process([sys.executable, "-c", parent], directory=tmp_path, memory=2e8))
    assert last.reason.endswith(" GB, more than the 0.2 GB it may: out of memory")


def test_the_codes_that_are_expected(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(5)"]
    assert end_of(run_process(command, directory=tmp_path, codes=(0, 5))).reason == ""
    assert end_of(run_process(command, directory=tmp_path)).reason == "the process ended with code 5, and said: nothing"


STUBBORN = (
    "import signal, subprocess, sys, pathlib, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "pathlib.Path('child.part').write_text(str(child.pid))\npathlib.Path('child.part').rename('child')\n"
    "time.sleep(600)\n"
)
"""A process that ignores being asked to end, and has a child."""


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pid: int) -> bool:
    """Whether it is, once the system has come round to it."""
    end = time.monotonic() + 60
    while time.monotonic() < end and alive(pid):
        time.sleep(0.05)
    return not alive(pid)


def test_nothing_is_left_running(tmp_path: Path) -> None:
    process = run_process([sys.executable, "-c", STUBBORN], directory=tmp_path, timeout=5)
    assert end_of(process).reason == "did not come back within --timeout (5 s): stopped"
    assert gone(int((tmp_path / "child").read_text()))


def test_a_caller_that_stops_looking_ends_it(tmp_path: Path) -> None:
    process = run_process([sys.executable, "-c", STUBBORN], directory=tmp_path)
    for state in process:
        assert state is None
        if (tmp_path / "child").exists():
            break
    child = int((tmp_path / "child").read_text())
    assert alive(child)
    process.close()
    assert gone(child)
