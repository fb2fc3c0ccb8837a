"""What a task will roughly take, for the plan: a rule of thumb from figures on two cores, not a promise.

ResNet-18 (12 million parameters) takes 30 s for all checks, ResNet-50 (26 million) 75 s; a model of the zoo takes 10 s
and a second per million. A benchmark takes its budget and half as much again to build, count and warm up. Float64
weights, their gradients, two references and a copy are about 60 bytes a parameter, on top of what torch takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.sweep.task import Task

START = 6.0
"""Seconds to start Python and import torch and the libraries."""
BASE_BYTES = 6e8
BYTES_PER_PARAMETER = 60.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one task."""

    seconds: float
    memory: float
    """Bytes."""


def estimate(task: Task, *, budget: float) -> Estimate:
    """``budget`` is the ``--budget`` of each benchmark in seconds."""
    millions = task.parameters / 1e6
    memory = BASE_BYTES + BYTES_PER_PARAMETER * task.parameters
    if task.measures:
        return Estimate(seconds=START + 1.5 * budget * len(task.cases), memory=memory)
    if task.suite == "zoo":
        return Estimate(seconds=START + 10 + millions, memory=memory)
    share = min(1.0, len(task.cases) / 28)
    return Estimate(seconds=START + share * (5 + 2.7 * millions), memory=memory)
