from __future__ import annotations

import math
import time

import pytest
import torch

from harness.measure.clock import BURST, ClockError, CpuClock, clock_for, possible


def test_cpu_clock_contains_the_step() -> None:
    seconds = CpuClock().latency(lambda: time.sleep(0.02))
    assert seconds >= 0.019  # sleep never returns early; the upper end is the machine's


def test_cpu_has_no_pace_of_its_own() -> None:
    calls: list[int] = []
    assert not CpuClock.has_pace
    assert CpuClock().pace(lambda: calls.append(1)) > 0
    assert calls == [1]


@pytest.mark.parametrize("seconds", [0.0, -1e-9, math.nan, math.inf])
def test_impossible_time_names_the_clock(seconds: float) -> None:
    with pytest.raises(ClockError, match="clock sundial: a step took"):
        possible(seconds, "sundial")


def test_a_clock_that_jumps_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter((2_000, 1_000))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(readings))
    with pytest.raises(ClockError, match="perf_counter_ns"):
        CpuClock().latency(lambda: None)


def test_unknown_device_says_what_is_known() -> None:
    with pytest.raises(ValueError, match="known: cpu, cuda"):
        clock_for(torch.device("meta"))


@pytest.mark.gpu
def test_cuda_latency_contains_the_work_and_pace_does_not_exceed_it() -> None:
    clock = clock_for(torch.device("cuda"))
    a = torch.ones((4096, 4096), device="cuda")
    calls = 0

    def product() -> None:
        nonlocal calls
        calls += 1
        torch.mm(a, a)

    clock.latency(product)
    latency, pace = clock.latency(product), clock.pace(product)
    assert calls == 2 + BURST
    assert pace <= 2 * latency
    assert latency > 2 * 4096**3 / 1e15  # no device does float32 at a petaflop per second
