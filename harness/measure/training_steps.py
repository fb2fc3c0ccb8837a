"""Training steps that are not an architecture's own (recipes, losses), timed in turns and recorded."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.measure.clock import clock_for, undisturbed
from harness.measure.memory import MeterError, meter_for
from harness.measure.rounds import Rounds, rounds_within
from harness.process.memory_reuse import with_room
from harness.records.schema import MeasurementRecord, Mode, Record
from harness.statistics.ratios import RatioEstimate, paired_ratio

MOST_ROUNDS = 60


class TimedStep:
    """One optimizer step: zero the gradients, ``loss(model)``, backward, step."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[nn.Module], Tensor]) -> None:
        self.model = model.train()
        self.optimizer = optimizer
        self.loss = loss

    def __call__(self) -> None:
        """Take it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model).backward()
        self.optimizer.step()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was measured: seconds of each round by name, and bytes of a step beyond what was there before it."""

    seconds: Mapping[str, list[float]]
    memory: Mapping[str, int | None]

    def cost(self, name: str, reference: str) -> RatioEstimate:
        """Time of a step of ``name`` over that of ``reference``, median and interval; below 1 is cheaper."""
        return paired_ratio(self.seconds[reference], self.seconds[name])

    def memory_ratio(self, name: str, reference: str) -> float | None:
        """Peak memory of a step of ``name`` over that of ``reference``; None where it can't be metered."""
        ours, theirs = self.memory[name], self.memory[reference]
        return ours / theirs if ours is not None and theirs else None


def compare(
    benchmark: Any,
    steps: Mapping[str, Callable[[], None]],
    *,
    suite: str,
    architecture: str,
    run: str,
    device: str,
    budget: float,
    batch_size: int,
    input_size: int,
    record: Callable[[Record], None],
    test: str,
    mode: Mode = "train",
) -> Comparison:
    """Time all ``steps`` round by round in random order, through pytest-benchmark, and record each; the last one is the
    reference. Raises BudgetError where ``budget`` seconds have no room for two rounds."""
    names = list(steps)
    place = torch.device(device)
    with undisturbed():
        memory: dict[str, int | None] = {}
        for name, step in steps.items():
            step()  # state that a first step makes counts as its own
            try:
                memory[name] = meter_for(place).peak(step).allocated
            except MeterError:
                memory[name] = None
        rounds = Rounds(steps, clock_for(place))
        planned = min(MOST_ROUNDS, rounds_within(budget, rounds.warm_up(budget / 2)))
        rounds.plan(planned)
        benchmark.group = f"{architecture} {suite} {mode}"
        with_room(
            benchmark.pedantic, rounds.lead, setup=rounds.before, teardown=rounds.after, rounds=planned, iterations=1
        )
    rounds.trim()
    for name in names:
        common: dict[str, Any] = {
            "run": run,
            "suite": suite,
            "architecture": architecture,
            "subject": name,
            "role": "reference" if name == names[-1] else "subject",
            "comparison": test,
            "mode": mode,
            "device": device,
            "batch_size": batch_size,
            "input_size": input_size,
            "test": test,
        }
        record(MeasurementRecord(quantity="latency", samples=tuple(rounds.samples[name]), **common))
        held = memory[name]
        if held is not None:
            record(MeasurementRecord(quantity="peak_memory", samples=(float(held),), **common))
    benchmark.extra_info.update({f"median_{n}": statistics.median(s) for n, s in rounds.samples.items()})
    return Comparison(seconds={n: list(s) for n, s in rounds.samples.items()}, memory=memory)
