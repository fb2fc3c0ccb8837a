"""Benchmarks in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.tests.judged import run, tiny
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
