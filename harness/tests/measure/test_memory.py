from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.measure.memory import CpuMeter, meter_for, resident
from harness.measure.workload import Inference, Training, random_batch


def test_overlapping_tensors_count_to_the_byte() -> None:
    def step() -> None:
        a = torch.empty(1000)  # 4000 bytes
        b = torch.empty(123, dtype=torch.int8)  # 4123 at once
        del a
        c = torch.empty(500, dtype=torch.float64)  # 123 + 4000: as many
        d = torch.empty(3, dtype=torch.int16)  # 4129: the peak
        del b, c, d
        torch.empty(1024)  # 4096 alone

    assert CpuMeter().peak(step).allocated == 4129


def test_chain_of_linear_layers_counts_to_the_byte() -> None:
    model = nn.Sequential(nn.Linear(100, 70), nn.Linear(70, 30), nn.Linear(30, 20)).eval()
    x = torch.ones(3, 100)
    with torch.inference_mode():
        model(x)

        def step() -> None:
            model(x)

        peak = CpuMeter().peak(step)
    assert peak.allocated == 4 * 3 * (70 + 30)  # two neighbours at once, the first two being the largest
    assert peak.reserved is None


def test_backward_pass_counts_to_the_byte() -> None:
    weight = torch.ones(1000, requires_grad=True)
    x = torch.ones(1000)

    def step() -> None:
        (weight * x).sum().backward()
        weight.grad = None

    # The product is gone once it is summed; then the sum, its gradient of one and the weight's gradient.
    assert CpuMeter().peak(step).allocated == 4 + 4 + 4000


def test_a_step_that_allocates_nothing_has_no_peak() -> None:
    x = torch.ones(10)
    assert CpuMeter().peak(lambda: x.neg_()).allocated == 0


def test_an_injected_allocation_is_seen_exactly() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1000))
    work = Training(model, random_batch(2, 8))
    work()

    def wasteful() -> None:
        extra = torch.empty(5_000_000, dtype=torch.uint8)
        work()
        del extra

    meter = CpuMeter()
    assert meter.peak(wasteful).allocated - meter.peak(work).allocated == 5_000_000


def test_peaks_of_the_same_step_are_equal() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1000))
    work = Training(model, random_batch(2, 8))
    work()
    meter = CpuMeter()
    assert meter.peak(work) == meter.peak(work)


def test_resident_bytes() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 4 * 4, 1000))
    batch = random_batch(2, 4)
    parameters = 4 * (3 + 3 + 48 * 1000 + 1000)
    held = resident(Inference(model, batch))
    assert held == {
        "parameters": parameters,
        "buffers": 4 * (3 + 3) + 8,
        "gradients": 0,
        "optimizer_state": 0,
        "batch": 4 * 2 * 3 * 4 * 4 + 8 * 2,
    }
    work = Training(model, batch)
    work()
    assert resident(work) == held | {"optimizer_state": parameters}


def test_unknown_device_says_what_is_known() -> None:
    with pytest.raises(ValueError, match="known: cpu, cuda"):
        meter_for(torch.device("meta"))


@pytest.mark.gpu
def test_cuda_peak_is_the_allocators_to_its_granularity() -> None:
    def step() -> None:
        a = torch.empty(1 << 20, device="cuda")
        b = torch.empty(1 << 20, device="cuda")
        del a, b

    peak = meter_for(torch.device("cuda")).peak(step)
    assert peak.allocated == 8 << 20
    assert peak.reserved is not None
    assert peak.reserved >= peak.allocated
