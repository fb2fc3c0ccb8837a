"""The learning rate of each step: linear scaling with the batch, warm-up, and drops (Goyal et al. 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

REFERENCE_BATCH = 16
"""Images of a step, over all processes, for which a rate is given."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """``rate(step)`` is a function of the step alone, so that there is no state to save.

    ``base`` is for 16 images and grows in proportion to the ``batch`` of all processes together. It rises linearly
    from a thousandth over ``warmup`` steps, and is multiplied by ``gamma`` at each step in ``drops``.
    """

    base: float
    batch: int
    warmup: int = 0
    drops: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.base < math.inf:
            raise ValueError(f"learning rate {self.base:g}: expected a positive number")
        if self.warmup < 0:
            raise ValueError(f"warm-up of {self.warmup} steps: expected none or more")
        if self.batch < 1 or not 0 < self.gamma < math.inf:
            raise ValueError(f"batch {self.batch}, gamma {self.gamma:g}: expected both to be positive")

    @property
    def scaled(self) -> float:
        """After warm-up, before the first drop."""
        return self.base * self.batch / REFERENCE_BATCH

    def rate(self, step: int) -> float:
        """Of the step with this number, from 0."""
        rising = 1.0 if step >= self.warmup else 0.001 + 0.999 * step / self.warmup
        return self.scaled * rising * self.gamma ** sum(step >= drop for drop in self.drops)
