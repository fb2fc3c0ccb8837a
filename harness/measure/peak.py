"""The machine's own speed: float32 matrix products, as fast as torch does them here."""

from __future__ import annotations

import time

import torch

from harness.measure.clock import clock_for

SIDES = {"cpu": 2048, "cuda": 8192}
"""Large enough that memory traffic is hidden: 2 n^3 operations on 12 n^2 bytes."""
REPEATS = 7
SECONDS = 3.0


def matmul_peak(device: torch.device) -> tuple[float, ...]:
    """FLOP/s of square float32 matrix products, under the precision settings in force; at most about 3 s.

    One sample per product, after one of warm-up.
    """
    side = SIDES[device.type]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn((side, side), generator=generator).to(device)
    out = torch.empty_like(a)
    clock = clock_for(device)

    def product() -> None:
        torch.mm(a, a, out=out)

    clock.latency(product)
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < REPEATS and (not samples or time.perf_counter() - began < SECONDS):
        samples.append(2 * side**3 / clock.latency(product))
    return tuple(samples)
