"""NVML, played by a stand-in: what is read, in which units, and that its absence ends nothing."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from harness.measure import gpu
from harness.measure.gpu import NoGpu, NvmlGpu, ThrottleWatch, open_gpu, watch_for

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class StandIn(ModuleType):
    """The functions of ``pynvml`` that are used."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVMLError = OSError
    reasons = 0
    millijoules = 0

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int) -> int:  # noqa: N802 - NVML's name
        return {1: 1400, 2: 2600}[kind]

    def nvmlDeviceGetTemperature(self, handle: Any, kind: int) -> int:  # noqa: N802
        return 61

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        return 250_000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:  # noqa: N802
        return self.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802
        return self.millijoules


@pytest.fixture
def nvml() -> StandIn:
    return StandIn("pynvml")


def test_units_and_reasons(nvml: StandIn) -> None:
    nvml.reasons = 0x01 | 0x04 | 0x20  # idle, power cap, too hot
    assert NvmlGpu(nvml, "handle", CUDA).state() == {
        "sm_clock": 1400,
        "memory_clock": 2600,
        "temperature": 61,
        "power": 250.0,
        "throttled": "power cap, thermal slowdown",
    }


def test_energy_is_per_step(nvml: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    monkeypatch.setattr(gpu, "ENERGY_SECONDS", 0.01)

    def step() -> None:
        nvml.millijoules += 500

    assert NvmlGpu(nvml, "handle", CUDA).energy_of(step) == pytest.approx(0.5)


def test_a_device_without_an_energy_counter(nvml: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: Any) -> int:
        raise OSError("not supported")

    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", refuse, raising=False)
    assert NvmlGpu(nvml, "handle", CUDA).energy_of(lambda: None) is None


def test_rounds_under_a_lowered_clock_are_marked(nvml: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LOOK_SECONDS", 0.0)
    watch = ThrottleWatch(NvmlGpu(nvml, "handle", CUDA))
    watch.look(2)
    nvml.reasons = 0x40
    watch.look(4)
    nvml.reasons = 0
    watch.look(6)
    assert watch.disturbed == dict.fromkeys((2, 3), "GPU throttled: hardware thermal slowdown")


def test_without_a_gpu_or_its_library_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_gpu(CPU), NoGpu)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_gpu(CUDA).state() == {}
    assert open_gpu(CUDA).energy_of(lambda: None) is None
    assert watch_for(CUDA).disturbed == watch_for(CPU).disturbed == {}
