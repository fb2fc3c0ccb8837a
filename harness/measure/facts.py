"""What a benchmark's samples say, as flat numbers and strings: pytest-benchmark's ``extra_info``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.statistics.ratios import (
    clean,
    latency_percentiles,
    minimum_detectable_effect,
    noise_floor,
    paired_ratio,
    throughput,
    verdict,
)

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
    traffic: int = 0,
    bandwidth: float = math.inf,
    disturbed: Sequence[int] = (),
    stopped_by: str = "",
) -> Facts:
    """Figures of a subject beside its references, from the latencies in seconds of the same rounds.

    ``flops`` and ``traffic`` (byte) are per batch, ``matmul_peak`` in FLOP/s, ``bandwidth`` in byte/s; ratios leave out
    the rounds that were ``disturbed``. What has no bound (a single round) reads "unbounded", so that the JSON stays
    valid.
    """
    latency = latency_percentiles(subject)
    ours = clean(subject, disturbed)
    again = clean(replicate, disturbed)
    floor = noise_floor(ours, again)
    facts: Facts = {
        "images_per_second": throughput(subject, batch_size),
        "latency_median": latency.median,
        "latency_p95": latency.p95,
        "latency_p99": latency.p99,
        "flops_per_second": flops / latency.median,
        "share_of_matmul_peak": flops / latency.median / matmul_peak,
        "share_of_bandwidth": traffic / latency.median / bandwidth,
        "bound_by": "memory" if traffic / bandwidth > flops / matmul_peak else "arithmetic",
        "noise_floor": _finite(floor),
        "rounds": len(subject),
        "disturbed_rounds": len(disturbed),
        "stopped_by": stopped_by,
    }
    for library, samples in references.items():
        estimate = paired_ratio(ours, clean(samples, disturbed), again)
        facts[f"ratio_to_{library}"] = estimate.ratio
        facts[f"ratio_to_{library}_low"] = estimate.low
        facts[f"ratio_to_{library}_high"] = _finite(estimate.high)
        facts[f"detectable_against_{library}"] = _finite(minimum_detectable_effect(estimate, floor))
        facts[f"verdict_on_{library}"] = verdict(estimate, floor)
    return facts


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "unbounded"
