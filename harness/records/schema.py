"""Rows that a run consists of. A row is validated when made and never changed.

Schema history
--------------
1 : first version
2 : measurements have memory_format, compile and process; quantities of compiling, predicting, energy, bandwidth and
    accuracy, average precision, attention and similarity of positions
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

SCHEMA = 2

SPEED = "speed_"
"""Checks whose names start so are benchmarks: one that fails was not measured, which says nothing about being right."""

Outcome = Literal["passed", "failed", "skipped", "xfailed", "error"]
Mode = Literal["infer", "train"]
Quantity = Literal[
    "latency",
    "peak_memory",
    "parameters",
    "flops",
    "matmul_peak",
    "loop_overhead",
    "gradient_norm",
    "build_time",
    "time_to_first",
    "compile_time",
    "predicted_memory",
    "largest_batch",
    "traffic",
    "bandwidth",
    "energy",
    "accuracy",
    "average_precision",
    "anchor_overlap",
    "attention",
    "position_similarity",
]
UNITS: Mapping[str, str] = {
    "latency": "s",  # of one batch
    "peak_memory": "byte",
    "parameters": "1",
    "flops": "flop",  # of one batch; a multiply-add is two
    "matmul_peak": "flop/s",
    "loop_overhead": "s",
    "gradient_norm": "1",
    "build_time": "s",
    "time_to_first": "s",  # from calling the factory to the first output
    "compile_time": "s",  # of the first step of a compiled model
    "predicted_memory": "byte",  # peak of a step on tensors without storage, what is resident included
    "largest_batch": "1",  # images
    "traffic": "byte",  # what the operators of a step read and write, were nothing kept in a cache
    "bandwidth": "byte/s",  # of the machine's memory
    "energy": "J",  # of one batch
    "accuracy": "1",  # share of the validation images that are classified right, after an epoch
    "anchor_overlap": "1",  # IoU of a box with the anchor of its level that fits best, one sample for each box
    "attention": "1",  # of the class token to each patch, row by row
    "position_similarity": "1",  # cosine of a patch's position embedding with each other's, not below 0, row by row
    "average_precision": "1",  # of a detector at IoU 0.5, on the validation images, after an epoch
}


OUTCOMES: tuple[str, ...] = get_args(Outcome)


def expect_outcome(outcome: str) -> None:
    """Raise ValueError where a check can't have that outcome."""
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome is {outcome!r}; known: {', '.join(OUTCOMES)}")


def expect_samples(quantity: str, samples: Sequence[float], subject: str, architecture: str) -> None:
    """Raise ValueError where there is no such quantity, there are no samples, or one is no amount of it."""
    if quantity not in UNITS:
        raise ValueError(f"quantity is {quantity!r}; known: {', '.join(UNITS)}")
    if not samples:
        raise ValueError(f"{quantity} of {subject} {architecture}: no samples")
    if math.isfinite(sum(samples)) and min(samples) >= 0:  # a sum is quick, and no finite one has an infinite part
        return
    for sample in samples:
        if not math.isfinite(sample) or sample < 0:
            raise ValueError(f"{quantity} of {subject} {architecture}: sample {sample!r} is no amount")


@dataclass(frozen=True, kw_only=True)
class CheckRecord:
    """What came of one check on one subject."""

    run: str
    suite: str
    architecture: str
    subject: str
    """Implementation's label: ``ours``, ``torchvision.models``, ``my_models``."""
    check: str
    outcome: Outcome
    message: str = ""
    """Why it failed or was skipped; empty where it passed."""
    reproduce: str = ""
    """One shell line that runs just this again."""
    test: str = ""
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "check"
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        expect_outcome(self.outcome)


@dataclass(frozen=True, kw_only=True)
class MeasurementRecord:
    """Raw samples of one quantity of one implementation.

    Rows with the same ``comparison`` were measured interleaved in the same rounds: ``samples[i]`` of each belongs to
    round ``i``. The A/A pair is the same implementation with ``replicate`` 0 and 1.
    """

    run: str
    suite: str
    architecture: str
    subject: str
    role: Literal["subject", "reference", "machine"] = "subject"
    replicate: int = 0
    comparison: str
    quantity: Quantity
    samples: tuple[float, ...]
    mode: Mode = "infer"
    device: str = "cpu"
    dtype: str = "float32"
    memory_format: str = "contiguous"
    compile: str = ""
    """Mode of `torch.compile`; empty where the model ran as written."""
    process: int = 0
    """Counts the processes that measured the same comparison afresh, where there was more than one."""
    batch_size: int = 1
    input_size: int = 224
    test: str = ""
    flag: str = ""
    """Why this row must not be ranked (its subject failed parity, ...); empty where it may."""
    details: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "measurement"
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        expect_samples(self.quantity, self.samples, self.subject, self.architecture)

    @property
    def unit(self) -> str:
        """Unit of the samples."""
        return UNITS[self.quantity]


Record = CheckRecord | MeasurementRecord
