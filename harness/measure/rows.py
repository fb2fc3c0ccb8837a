"""Records of one comparison.

What a benchmark's samples say, as flat numbers and strings: pytest-benchmark's ``extra_info``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.measure.contenders import Contender, LeftOut, Subject
from harness.measure.setting import Setting
from harness.records.schema import CheckRecord, MeasurementRecord, Quantity
from harness.statistics.ratios import (
    clean,
    latency_percentiles,
    minimum_detectable_effect,
    noise_floor,
    paired_ratio,
    throughput,
    verdict,
)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the records of one comparison have in common. ``flag`` goes to the subject's own only."""

    run: str
    subject: Subject
    setting: Setting
    """Batch and input size are what was measured, not what was asked for."""
    device: str
    batch_size: int
    input_size: int
    test: str
    flag: str
    process: int = 0

    @property
    def comparison(self) -> str:
        """Name of what was measured together; unique in a run and process."""
        measured = replace(self.setting, batch_size=self.batch_size)
        return f"{self.subject.label}:{self.subject.architecture.name}-{measured.id}"

    def suspect(self, reasons: Iterable[str]) -> Rows:
        """The same with further reasons not to rank the subject."""
        return replace(self, flag="; ".join(filter(None, (self.flag, *reasons))))

    def measurement(
        self,
        contender: Contender,
        quantity: Quantity,
        samples: Sequence[float],
        details: Mapping[str, Any] | None = None,
    ) -> MeasurementRecord:
        """Samples of one quantity of one contender."""
        return MeasurementRecord(
            run=self.run,
            suite=self.subject.family.name,
            architecture=self.subject.architecture.name,
            subject=contender.label,
            role=contender.role,
            replicate=contender.replicate,
            comparison=self.comparison,
            quantity=quantity,
            samples=tuple(samples),
            mode=self.setting.mode,
            device=self.device,
            dtype=self.setting.dtype,
            memory_format=self.setting.memory_format,
            compile=self.setting.compile,
            process=self.process,
            batch_size=self.batch_size,
            input_size=self.input_size,
            test=self.test,
            flag=self.flag if contender.role == "subject" else "",
            details={"version": contender.version, "published": self._published(), **(details or {})},
        )

    def _published(self) -> dict[str, float]:
        """The paper's own figures, where its table rounds them, else the exact ones."""
        architecture = self.subject.architecture
        facts = architecture.facts
        return {
            "parameters": facts.get("table2_parameters", architecture.parameters),
            "multiply_adds": facts.get("table2_multiply_adds", architecture.multiply_adds),
            "input_size": architecture.input_size,
        }

    def absence(self, absent: LeftOut) -> CheckRecord:
        """A reference that took no part."""
        return CheckRecord(
            run=self.run,
            suite=self.subject.family.name,
            architecture=self.subject.architecture.name,
            subject=self.subject.label,
            check=f"measured_against_{absent.label}",
            outcome="skipped",
            message=absent.reason,
            test=self.test,
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
