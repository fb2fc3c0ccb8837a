"""What the machine can do, measured and recorded when first asked for.

The machine's own speed: matrix products as fast as torch does them here, and copies of memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from harness.measure.clock import Clock, clock_for
from harness.records.schema import MeasurementRecord, Quantity, Record


@dataclass(kw_only=True)
class Machine:
    """Peak of matrix products and bandwidth of memory of one device."""

    run: str
    device: torch.device
    record: Callable[[Record], None]
    _peaks: dict[torch.dtype, float] = field(default_factory=dict)

    def peak(self, dtype: torch.dtype) -> float:
        """FLOP/s of matrix products in ``dtype``."""
        if dtype not in self._peaks:
            samples = matmul_peak(self.device, dtype)
            details = {"precision": torch.get_float32_matmul_precision(), "threads": torch.get_num_threads()}
            self._record("matmul", "matmul_peak", samples, str(dtype).removeprefix("torch."), details)
            self._peaks[dtype] = statistics.median(samples)
        return self._peaks[dtype]

    @cached_property
    def bandwidth(self) -> float:
        """Bytes per second that a copy within the device's memory reads and writes."""
        samples = bandwidth(self.device)
        self._record("copy", "bandwidth", samples, "float32", {"bytes": COPIED[self.device.type]})
        return statistics.median(samples)

    def _record(
        self, what: str, quantity: Quantity, samples: Sequence[float], dtype: str, details: Mapping[str, Any]
    ) -> None:
        self.record(
            MeasurementRecord(
                run=self.run,
                suite="machine",
                architecture=what,
                subject=self.device.type,
                role="machine",
                comparison="machine",
                quantity=quantity,
                samples=tuple(samples),
                device=str(self.device),
                dtype=dtype,
                input_size=SIDES[self.device.type],
                details=details,
            )
        )


SIDES = {"cpu": 2048, "cuda": 8192}
"""Large enough that memory traffic is hidden: 2 n^3 operations on 12 n^2 bytes."""
COPIED = {"cpu": 1 << 27, "cuda": 1 << 30}
"""Bytes, several times what caches hold."""
REPEATS = 7
SECONDS = 3.0


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[float, ...]:
    """FLOP/s of square matrix products in ``dtype``, under the precision settings in force; at most about 3 s.

    One sample per product, after one of warm-up.
    """
    side = SIDES[device.type]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn((side, side), generator=generator).to(device, dtype)
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, a, out=out)

    return _rates(product, 2 * side**3, clock_for(device))


def bandwidth(device: torch.device) -> tuple[float, ...]:
    """Bytes per second read and written by copies within the device's memory; at most about 3 s."""
    size = COPIED[device.type]
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    return _rates(copy, 2 * size, clock_for(device))


def _rates(step: Callable[[], object], amount: int, clock: Clock) -> tuple[float, ...]:
    clock.latency(step)
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < REPEATS and (not samples or time.perf_counter() - began < SECONDS):
        samples.append(amount / clock.latency(step))
    return tuple(samples)
