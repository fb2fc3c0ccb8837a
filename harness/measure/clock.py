"""Clocks: how long one step takes, on the CPU and on CUDA.

What is switched off while steps are timed, and back on afterwards.
"""

from __future__ import annotations

import cProfile
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

Step = Callable[[], object]
"""One unit of work: a forward pass of a batch, or a training step."""

BURST = 5
"""Steps that are queued back to back between two CUDA events."""


class ClockError(RuntimeError):
    """A clock gave a time that can't be; the message names the clock."""


class Clock(Protocol):
    """Times steps. Every contender of a comparison is timed by the same one."""

    name: str
    has_pace: bool
    """Whether a device kept busy takes another time per step than the latency of one."""

    def latency(self, step: Step) -> float:
        """Wall-clock seconds from the call until all of the step's work is done."""
        ...

    def pace(self, step: Step) -> float:
        """Seconds per step while the device is kept busy; the latency where there is no other."""
        ...


class CpuClock:
    """`time.perf_counter_ns`, which is monotonic."""

    name = "time.perf_counter_ns"
    has_pace = False

    def latency(self, step: Step) -> float:
        """Wall-clock seconds of one call."""
        start = time.perf_counter_ns()
        step()
        return possible((time.perf_counter_ns() - start) * 1e-9, self.name)

    def pace(self, step: Step) -> float:
        """The latency: the CPU runs a step when it is called."""
        return self.latency(step)


class CudaClock:
    """Wall clock with a synchronisation before and after; CUDA events around steps without one in between."""

    name = "time.perf_counter_ns with torch.cuda.synchronize, torch.cuda.Event"
    has_pace = True

    def __init__(self, device: torch.device, *, flush: bool = False) -> None:
        """``flush`` writes over the L2 cache before each latency, so that no step finds its input there."""
        self.device = device
        self._flushed: torch.Tensor | None = None
        if flush:
            cache = int(torch.cuda.get_device_properties(device).L2_cache_size)
            self._flushed = torch.empty(max(2 * cache, 1 << 26), dtype=torch.int8, device=device)
            self.name += ", L2 flushed"

    def latency(self, step: Step) -> float:
        """Wall-clock seconds from the call until the device is idle again."""
        if self._flushed is not None:
            self._flushed.zero_()
        torch.cuda.synchronize(self.device)
        start = time.perf_counter_ns()
        step()
        torch.cuda.synchronize(self.device)
        return possible((time.perf_counter_ns() - start) * 1e-9, self.name)

    def pace(self, step: Step) -> float:
        """Seconds per step over `BURST` steps, by events on the current stream."""
        start: torch.cuda.Event = torch.cuda.Event(enable_timing=True)
        end: torch.cuda.Event = torch.cuda.Event(enable_timing=True)
        with torch.cuda.device(self.device):
            start.record()
            for _ in range(BURST):
                step()
            end.record()
        end.synchronize()
        return possible(start.elapsed_time(end) * 1e-3 / BURST, self.name)


def clock_for(device: torch.device, *, flush: bool = False) -> Clock:
    """The clock of a device; ``flush`` is for CUDA's only. Raises ValueError where there is none."""
    if device.type == "cpu":
        return CpuClock()
    if device.type == "cuda":
        return CudaClock(device, flush=flush)
    raise ValueError(f"device {device}: no clock for {device.type}; known: cpu, cuda")


def possible(seconds: float, clock: str) -> float:
    """``seconds``, unless no work can take that long. Raises ClockError naming the clock."""
    if not 0 < seconds < math.inf:
        raise ClockError(
            f"clock {clock}: a step took {seconds!r} s; no work takes that, so no time of it can be trusted"
        )
    return seconds


@contextmanager
def undisturbed() -> Iterator[None]:
    """No cyclic garbage collection, and no Python tracer or profiler (coverage, debuggers), for all contenders alike.

    pytest-benchmark pauses tracers around the one function that it times only; the contenders that run between its
    rounds need the same, or the ratio would measure the tracer.
    """
    collecting, tracer, profiler = gc.isenabled(), sys.gettrace(), sys.getprofile()
    gc.collect()
    gc.disable()
    sys.settrace(None)
    sys.setprofile(None)
    try:
        yield
    finally:
        if isinstance(profiler, cProfile.Profile):
            profiler.enable()  # it is no callable, which is all that sys.setprofile takes
        else:
            sys.setprofile(profiler)
        sys.settrace(tracer)
        if collecting:
            gc.enable()
