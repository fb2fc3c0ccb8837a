"""Peak memory of one step, and what is resident between steps."""

from __future__ import annotations

import gc
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from harness.measure.clock import Step
from harness.measure.workload import Workload

MARK = 64
"""Bytes allocated and freed as the first thing in a profile: the running total before it is the baseline."""


class MeterError(RuntimeError):
    """The meter saw nothing, so that zero would be a lie."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Most bytes allocated at once in a step, beyond those allocated before it."""

    allocated: int
    reserved: int | None = None
    """Most bytes that the caching allocator took from the device beyond those before; None where nothing is cached."""


class MemoryMeter(Protocol):
    """Measures peak memory; in a loop of its own, since it slows the step."""

    def peak(self, step: Step) -> Peak:
        """Run ``step`` and give its peak. It should have run before: state made in a first step counts as its own."""
        ...


class CpuMeter:
    """Every allocation and release of torch's CPU allocator during one step, as its profiler logs them.

    Exact to the byte as requested (alignment and fragmentation of the system's allocator are not torch's). Scratch
    space that oneDNN or MKL takes for itself is not seen, nor is a release of what was allocated before the step.
    """

    def peak(self, step: Step) -> Peak:
        """Run ``step`` once under the profiler. Raises MeterError where it logs no memory."""
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            torch.empty(MARK, dtype=torch.uint8)
            step()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text())["traceEvents"]
        log = sorted((e for e in events if _on_cpu(e)), key=lambda e: float(e["ts"]))
        totals = [int(e["args"]["Total Allocated"]) for e in log]
        if len(totals) < 2 or log[0]["args"]["Bytes"] != MARK:
            raise MeterError("torch.profiler logged no allocation on the CPU; this build can't profile memory")
        baseline = totals[0] - MARK
        return Peak(allocated=max(totals[1:]) - baseline)


class CudaMeter:
    """The caching allocator's own peak counters."""

    steps = 3

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def peak(self, step: Step) -> Peak:
        """Run ``step`` three times from an empty cache."""
        gc.collect()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        allocated, reserved = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
        for _ in range(self.steps):
            step()
        torch.cuda.synchronize(self.device)
        return Peak(
            allocated=torch.cuda.max_memory_allocated(self.device) - allocated,
            reserved=torch.cuda.max_memory_reserved(self.device) - reserved,
        )


def meter_for(device: torch.device) -> MemoryMeter:
    """The meter of a device. Raises ValueError where there is none."""
    if device.type == "cpu":
        return CpuMeter()
    if device.type == "cuda":
        return CudaMeter(device)
    raise ValueError(f"device {device}: no memory meter for {device.type}; known: cpu, cuda")


def resident(work: Workload) -> dict[str, int]:
    """Bytes held between steps: parameters, buffers, gradients, optimizer state, and the batch."""
    parameters = list(work.model.parameters())
    state = work.optimizer.state.values() if work.optimizer is not None else ()
    return {
        "parameters": sum(p.nbytes for p in parameters),
        "buffers": sum(b.nbytes for b in work.model.buffers()),
        "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
        "optimizer_state": sum(v.nbytes for entry in state for v in entry.values() if isinstance(v, torch.Tensor)),
        "batch": work.batch.images.nbytes + work.batch.labels.nbytes,
    }


def _on_cpu(event: dict[str, Any]) -> bool:
    return event.get("name") == "[memory]" and event["args"].get("Device Type") == 0
