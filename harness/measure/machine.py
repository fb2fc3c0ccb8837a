"""What the machine can do, measured and recorded when first asked for."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from harness.measure.peak import COPIED, SIDES, bandwidth, matmul_peak
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
