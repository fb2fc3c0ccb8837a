"""Benchmarks in processes of their own, and runs that go on where they were interrupted."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.plugin.isolation import run_isolated
from harness.tests.judged import GOOD, run, tiny
from reports.frames.run import load

SEGFAULT = tiny("__import__('ctypes').string_at(0)")
GREEDY = (
    tiny("grow()") + "\n\ndef grow():\n    kept = []\n    while True:\n        kept.append(torch.ones(10_000_000))\n"
)
HANGING = tiny("__import__('time').sleep(1000)")
REFUSING = "def resnet18(num_classes=1000):\n    raise ValueError('no')\n"
PLAIN = tiny("self.head(x.mean((2, 3)))")
SHORT = ("--benchmark", "--modes", "infer", "--budget", "2", "--input-size", "32", "-k", "test_speed")


def test_a_crash_a_hang_and_an_endless_allocation_are_rows_and_the_rest_goes_on(tmp_path: Path) -> None:
    subjects = {"crashing": SEGFAULT, "greedy": GREEDY, "hanging": HANGING, "refusing": REFUSING}
    limits = ("--isolate", "--memory-limit", "2.5", "--timeout", "60")
    done = run(tmp_path, *SHORT, *limits, subjects=subjects)
    assert done.code == pytest.ExitCode.TESTS_FAILED, done.out
    assert "INTERNALERROR" not in done.out
    (name,) = {r["check"] for r in done.rows if r["kind"] == "check" and r["check"].startswith("speed_")}
    said = {r["subject"]: (r["outcome"], r["message"]) for r in done.rows if r.get("check") == name}
    where = "ProcessEndedError: resnet18 of"
    assert said["crashing"] == ("error", f"{where} crashing, process 1 of 1: the process died of SIGSEGV")
    assert said["greedy"][0] == "error"
    assert "more than the 2.5 GB it may: out of memory" in said["greedy"][1]
    assert said["hanging"] == (
        "error",
        f"{where} hanging, process 1 of 1: did not come back within --timeout (60 s): stopped",
    )
    assert said["refusing"] == ("failed", "resnet18 of refusing: resnet18(num_classes=1000) raised ValueError: no")
    assert all(r["run"] == done.folder.name for r in done.rows)
    assert load(done.folder).complete


def test_repeated_processes_are_told_apart(tmp_path: Path) -> None:
    done = run(tmp_path, *SHORT, "--repeats", "2", subjects={"plain": PLAIN})
    assert done.code == pytest.ExitCode.OK, done.out
    latencies = [r for r in done.rows if r.get("quantity") == "latency" and r["role"] == "subject"]
    assert sorted((r["process"], r["replicate"]) for r in latencies) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len({r["comparison"] for r in latencies}) == 1
    assert all("too fast to be true: has 4,000 parameters where" in r["flag"] for r in latencies)


def test_a_killed_run_is_resumed_with_what_is_missing(tmp_path: Path) -> None:
    dying = (
        "import os, pathlib, signal\nfrom suites.resnet import model\n\nresnet18 = model.resnet18\n"
        f"once = pathlib.Path({str(tmp_path / 'once')!r})\n\n\n"
        "def resnet34(num_classes=1000):\n    if not once.exists():\n        once.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n    return model.resnet34(num_classes=num_classes)\n"
    )
    first = run(tmp_path, "-k", "parameters", subjects={"dying": dying})
    assert first.code == -signal.SIGKILL, first.out
    with (first.folder / "records.jsonl").open("ab") as file:
        file.write(b'{"kind": "check", "torn')
    again = run(tmp_path, "-k", "parameters", "--resume", first.folder.name, subjects={"dying": dying})
    assert again.code == pytest.ExitCode.OK, again.out
    assert again.folder == first.folder
    assert "1 passed" in again.out
    kept = load(again.folder)
    assert kept.complete
    assert kept.corrupt_lines == 0
    assert list(kept.checks["architecture"]) == ["resnet18", "resnet34"]
    assert len(kept.environment["resumed"]) == 1
    nothing = run(tmp_path, "-k", "parameters", "--resume", first.folder.name, subjects={"dying": dying})
    assert nothing.code == pytest.ExitCode.OK
    assert "nothing is missing" in nothing.out


def test_a_run_that_is_not_there_cannot_be_resumed(tmp_path: Path) -> None:
    done = run(tmp_path, "--collect-only", "--resume", "nowhere", subjects={"right": GOOD})
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert "--resume nowhere: no such run in " in done.error()


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_nothing_is_left_running(tmp_path: Path) -> None:
    """A process that ignores being asked, and its child, are gone when the time is up."""
    script = (
        "import signal, subprocess, sys, pathlib, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\ntime.sleep(600)\n"
    )
    ended = run_isolated([sys.executable, "-c", script], results=tmp_path, timeout=5, memory=1e9, directory=tmp_path)
    assert ended.reason == "did not come back within --timeout (5 s): stopped"
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 30  # a killed process is gone when the system comes round to it
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_a_process_that_cannot_start_its_work_says_so(tmp_path: Path) -> None:
    script = "print('no such option'); raise SystemExit(4)"
    ended = run_isolated([sys.executable, "-c", script], results=tmp_path, timeout=60, memory=1e9, directory=tmp_path)
    assert ended.reason == "the process ended with code 4, and said: no such option"
    assert ended.records == ()
