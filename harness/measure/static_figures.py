"""What one look settles about each contender: counts, memory and what it is made of, time to the first output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from harness.errors import first_line
from harness.measure.contenders import Contender
from harness.measure.counts import Count, count, count_parameters
from harness.measure.memory import meter_for, resident
from harness.measure.memory_prediction import Prediction, growth, predict
from harness.measure.rows import Facts, Rows
from harness.measure.workload import Workload
from harness.records.schema import Record

GIB = 1 << 30
MEMORIES = (8, 16, 24, 40, 80)
"""GiB of usual devices, for which the largest batch is predicted."""


@dataclass(frozen=True, kw_only=True)
class Statics:
    """Counts of every contender by its key, and the facts for pytest-benchmark's row."""

    counts: Mapping[str, Count]
    parameters: Mapping[str, int]
    facts: Facts


def measure_statics(
    rows: Rows, contenders: Sequence[Contender], device: torch.device, record: Callable[[Record], None]
) -> Statics:
    """Record and return what needs no rounds; a replicate's figures are the subject's."""
    facts: Facts = {"flag": rows.flag} if rows.flag else {}
    counts: dict[str, Count] = {}
    sizes: dict[str, int] = {}
    meter = meter_for(device)
    for contender in contenders:
        if contender.replicate:
            continue
        counted, parameters = count(contender.work), count_parameters(contender.work.model)
        counts[contender.key], sizes[contender.key] = counted, parameters
        peak = meter.peak(contender.work)
        held = resident(contender.work)
        details: dict[str, Any] = {"resident": held}
        if peak.reserved is not None:
            details["reserved"] = peak.reserved
        if contender.role == "subject":
            details |= _predicted(rows, contender, peak.allocated + sum(held.values()), record)
            facts.update(parameters=parameters, flops=counted.flops, peak_memory=peak.allocated)
        else:
            facts[f"peak_memory_{contender.label}"] = peak.allocated
        record(rows.measurement(contender, "parameters", [parameters]))
        record(rows.measurement(contender, "flops", [counted.flops], {"dtypes": list(counted.dtypes)}))
        record(rows.measurement(contender, "traffic", [counted.traffic]))
        record(rows.measurement(contender, "peak_memory", [peak.allocated], details))
        record(rows.measurement(contender, "time_to_first", [contender.time_to_first]))
        if contender.compile_time is not None:
            record(rows.measurement(contender, "compile_time", [contender.compile_time]))
    return Statics(counts=counts, parameters=sizes, facts=facts)


def _predicted(rows: Rows, contender: Contender, total: int, record: Callable[[Record], None]) -> dict[str, Any]:
    """Record the predicted peak; the details of the measured one: its parts, what the prediction missed as workspace.

    ``total`` is the measured peak with what is resident.
    """
    try:
        prediction = predict(contender.work)
    except Exception as error:  # a model that asks for values can't be run without them
        return {"prediction": f"none: {type(error).__name__}: {first_line(error)}"}
    details = {"kinds": dict(prediction.kinds), "measured": total} | _largest(contender.work, prediction)
    record(rows.measurement(contender, "predicted_memory", [prediction.total], details))
    return {"breakdown": {**prediction.kinds, "workspace": max(0, total - prediction.total)}}


def _largest(work: Workload, prediction: Prediction) -> dict[str, Any]:
    line = growth(work, prediction)
    device = work.batch.images.device
    here = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
    return {
        "fixed_bytes": line.fixed,
        "bytes_per_image": line.per_image,
        "largest_batch": {f"{m} GiB": line.largest_batch(m * GIB) for m in MEMORIES},
        "largest_batch_here": line.largest_batch(here),
        "memory_here": here,
    }
