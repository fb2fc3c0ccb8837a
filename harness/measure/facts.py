"""What a benchmark's samples say, as flat numbers and strings: pytest-benchmark's ``extra_info``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.measure.statistics import latency_percentiles, noise_floor, paired_ratio, throughput, verdict

Facts = dict[str, Any]
"""Numbers and strings only."""


def summarise(
    subject: Sequence[float],
    replicate: Sequence[float],
    references: Mapping[str, Sequence[float]],
    *,
    batch_size: int,
    flops: int,
    matmul_peak: float,
) -> Facts:
    """Figures of a subject beside its references, from the latencies in seconds of the same rounds.

    ``flops`` is per batch, ``matmul_peak`` in FLOP/s. What has no bound (a single round) reads "unbounded", so that
    the JSON stays valid.
    """
    latency = latency_percentiles(subject)
    floor = noise_floor(subject, replicate)
    facts: Facts = {
        "images_per_second": throughput(subject, batch_size),
        "latency_median": latency.median,
        "latency_p95": latency.p95,
        "latency_p99": latency.p99,
        "flops_per_second": flops / latency.median,
        "share_of_matmul_peak": flops / latency.median / matmul_peak,
        "noise_floor": _finite(floor),
    }
    for library, samples in references.items():
        estimate = paired_ratio(subject, samples)
        facts[f"ratio_to_{library}"] = estimate.ratio
        facts[f"ratio_to_{library}_low"] = estimate.low
        facts[f"ratio_to_{library}_high"] = _finite(estimate.high)
        facts[f"verdict_on_{library}"] = verdict(estimate, floor)
    return facts


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "unbounded"
