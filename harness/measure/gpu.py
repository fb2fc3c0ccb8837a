"""Clocks, throttling and energy of a GPU through NVML, where there are a GPU and the ``pynvml`` module."""

from __future__ import annotations

import importlib
import time
from typing import Any, Protocol

import torch

from harness.measure.clock import Step
from harness.measure.disturbance import AnyWatch, CpuWatch, Watch

THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""NVML's reasons for a lower clock that a measurement should know of; being idle or set to a clock isn't among them."""
ENERGY_SECONDS = 1.0
"""The counter moves every 20 to 100 ms, so that a second of steps is counted to within a tenth."""
LOOK_SECONDS = 0.25


class Gpu(Protocol):
    """What a device tells about itself."""

    def state(self) -> dict[str, Any]:
        """Clocks (MHz), temperature (degrees Celsius), power (W) and reasons for throttling; empty where unknown."""
        ...

    def throttled(self) -> str:
        """Why the clock is lowered right now; "" where it isn't."""
        ...

    def energy_of(self, step: Step) -> float | None:
        """Joules of one step, by the device's own counter; None where it has none."""
        ...


class NoGpu:
    """A device that tells nothing."""

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def throttled(self) -> str:
        """Never."""
        return ""

    def energy_of(self, step: Step) -> float | None:
        """Not known."""
        return None


class NvmlGpu:
    """A CUDA device through ``pynvml``."""

    def __init__(self, nvml: Any, handle: Any, device: torch.device) -> None:
        self._nvml = nvml
        self._handle = handle
        self._device = device

    def state(self) -> dict[str, Any]:
        """See `Gpu.state`."""
        nvml, handle = self._nvml, self._handle
        return {
            "sm_clock": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_clock": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "temperature": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "power": nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "throttled": self.throttled(),
        }

    def throttled(self) -> str:
        """See `Gpu.throttled`."""
        bits = self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)
        return ", ".join(name for bit, name in THROTTLING.items() if bits & bit)

    def energy_of(self, step: Step) -> float | None:
        """See `Gpu.energy_of`."""
        try:
            self._joules()
        except self._nvml.NVMLError:  # older than Volta
            return None
        torch.cuda.synchronize(self._device)
        start, began, steps = self._joules(), time.perf_counter(), 0
        while time.perf_counter() - began < ENERGY_SECONDS:
            step()
            torch.cuda.synchronize(self._device)
            steps += 1
        return (self._joules() - start) / steps

    def _joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


class ThrottleWatch:
    """Rounds during which a GPU lowered its clock."""

    def __init__(self, gpu: Gpu) -> None:
        self.disturbed: dict[int, str] = {}
        self._gpu = gpu
        self._judged = 0
        self._since = time.perf_counter()

    def look(self, done: int) -> None:
        """Ask the device, at most every `LOOK_SECONDS`."""
        if time.perf_counter() - self._since < LOOK_SECONDS:
            return
        why = self._gpu.throttled()
        if why:
            self.disturbed.update(dict.fromkeys(range(self._judged, done), f"GPU throttled: {why}"))
        self._judged, self._since = done, time.perf_counter()


def open_gpu(device: torch.device) -> Gpu:
    """What can be known of ``device``: `NoGpu` without CUDA, without ``pynvml``, or where NVML refuses."""
    if device.type != "cuda":
        return NoGpu()
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        gpu = NvmlGpu(nvml, handle, device)
        gpu.state()
    except Exception:  # an optional source: whatever goes wrong, times can be taken without it
        return NoGpu()
    return gpu


def watch_for(device: torch.device) -> Watch:
    """Who tells whether rounds on ``device`` were disturbed; the host feeds a GPU, so that its load counts too."""
    return AnyWatch([CpuWatch(), ThrottleWatch(open_gpu(device))]) if device.type == "cuda" else CpuWatch()
