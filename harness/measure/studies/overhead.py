"""What the measuring loop itself costs: ``python -m harness.measure.studies.overhead``.

A matrix product of about 5 ms is run two ways in blocks that alternate: called bare in a ``for`` loop, and as the only
contender of `Rounds`. Compared per block are the time that the loop reports (does a clock reading distort the figure?)
and the wall-clock time that a step costs in it (does the bookkeeping between steps disturb or delay?).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.measure.clock import CpuClock, Step, undisturbed
from harness.measure.rounds import Rounds
from harness.statistics.ratios import RatioEstimate, paired_ratio

TARGET = 5e-3
STEPS = 5
"""Per block: short enough that a disturbance of the machine hits both blocks of a pair."""


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Seconds per step, one sample per block."""

    bare: tuple[float, ...]
    reported: tuple[float, ...]
    """Mean latency that the loop recorded."""
    spent: tuple[float, ...]
    """Wall-clock time per step, all that happens between steps included."""

    @property
    def in_the_figure(self) -> RatioEstimate:
        """Reported over bare; 1.01 is one per cent too much."""
        return paired_ratio(self.bare, self.reported, instance_scatter=0.0)

    @property
    def in_wall_clock(self) -> RatioEstimate:
        """Spent over bare."""
        return paired_ratio(self.bare, self.spent, instance_scatter=0.0)

    @property
    def between(self) -> float:
        """Seconds per step that the loop spends outside of the steps; a busy machine hardly disturbs it."""
        return statistics.median(s - r for s, r in zip(self.spent, self.reported, strict=True))


def measure_overhead(step: Step, blocks: int, *, steps: int = STEPS, seed: int = 0) -> Overhead:
    """Alternate bare and measured blocks of ``steps``, in random order within each pair."""
    draw = random.Random(seed)
    bare: list[float] = []
    reported: list[float] = []
    spent: list[float] = []

    def run_bare() -> None:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        bare.append((time.perf_counter() - start) / steps)

    def run_measured() -> None:
        rounds = Rounds({"step": step}, CpuClock())
        rounds.plan(steps)
        start = time.perf_counter()
        rounds.run()
        spent.append((time.perf_counter() - start) / steps)
        reported.append(statistics.fmean(rounds.samples["step"]))

    with undisturbed():
        run_bare()
        bare.clear()
        for _ in range(blocks):
            for block in draw.sample((run_bare, run_measured), 2):
                block()
    return Overhead(bare=tuple(bare), reported=tuple(reported), spent=tuple(spent))


def product(seconds: float = TARGET) -> Step:
    """A float32 matrix product that takes about ``seconds`` here; its result is written in place."""
    clock = CpuClock()
    side = 256
    while True:
        a = torch.full((side, side), 1 / side)
        out = torch.empty_like(a)

        def step(a: torch.Tensor = a, out: torch.Tensor = out) -> None:
            torch.mm(a, a, out=out)

        took = min(clock.latency(step) for _ in range(5))
        if took >= seconds * 0.8:
            return step
        side = round(side * min(2.0, max(1.05, (seconds / took) ** (1 / 3))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the overhead; 1 where it is a per cent or more with confidence."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.measure.studies.overhead", description="Cost of the measuring loop."
    )
    parser.add_argument("--blocks", type=int, default=200, help=f"pairs of blocks of {STEPS} steps (default 200)")
    blocks = parser.parse_args(arguments).blocks
    if blocks < 1:
        parser.error(f"--blocks {blocks}: expected at least 1")
    overhead = measure_overhead(product(), blocks)
    print(f"bare step: {statistics.median(overhead.bare) * 1e3:.3f} ms, {blocks} pairs of {STEPS}")
    for name, ratio in (("in the figure", overhead.in_the_figure), ("in wall clock", overhead.in_wall_clock)):
        low, mid, high = ((r - 1) * 100 for r in (ratio.low, ratio.ratio, ratio.high))
        print(f"{name}: {mid:+.2f} % (95 % interval {low:+.2f} to {high:+.2f} %)")
    print(f"between steps: {overhead.between * 1e6:.0f} us, {overhead.between / TARGET:.2%} of {TARGET * 1e3:g} ms")
    return int(overhead.in_wall_clock.low >= 1.01)


if __name__ == "__main__":
    raise SystemExit(main())
