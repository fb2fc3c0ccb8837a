"""Relative error of two results, up to their layout."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """How well two results agree: norm of the difference over the norm of the second."""

    error: float
    """In the layout that fits best; 1 where they can't be subtracted (sizes differ, or values are not finite)."""
    unordered: float
    """With both sorted, so that the order doesn't matter; at most about ``error``."""
    same_shape: bool

    @property
    def least(self) -> float:
        """The error in the order that fits best."""
        return min(self.error, self.unordered)

    def holds(self, bound: float) -> bool:
        """Whether they agree within ``bound``, in some order."""
        return self.least <= bound

    @property
    def reordered(self) -> bool:
        """Whether the shapes are equal, and only the order of the numbers differs."""
        return self.same_shape and self.unordered < 1e-3 * self.error


def compare(got: Tensor | None, expected: Tensor | None) -> Agreement | None:
    """Agreement of two results; None where a value is missing or the two can't be compared.

    Channels may stand second or last, and the first two dimensions may be exchanged.
    """
    if got is None or expected is None:
        return None
    if got.numel() != expected.numel():
        return Agreement(1.0, 1.0, False) if _comparable(got, expected) else None
    got, expected = got.double(), expected.double()
    size = float(expected.norm()) or 1.0
    error = min(float((a - expected.reshape(-1)).norm()) / size for a in _layouts(got, expected))
    unordered = error
    if error > 1e-13:
        unordered = float((got.reshape(-1).sort().values - expected.reshape(-1).sort().values).norm()) / size
    if not (math.isfinite(error) and math.isfinite(unordered)):
        return Agreement(1.0, 1.0, got.shape == expected.shape)
    return Agreement(error, unordered, got.shape == expected.shape)


def _comparable(got: Tensor, expected: Tensor) -> bool:
    """Whether different sizes mean different results, not other ways to write the same: both are feature maps."""
    return got.dim() == expected.dim() == 4 and got.shape[:2] == expected.shape[:2]


def _layouts(got: Tensor, expected: Tensor) -> list[Tensor]:
    found = [got.reshape(-1)]
    if got.shape == expected.shape:
        return found
    if got.dim() >= 3:
        found += [got.movedim(1, -1).reshape(-1), got.movedim(-1, 1).reshape(-1), got.transpose(0, 1).reshape(-1)]
    if expected.dim() == 4:  # (batch, channels, height, width) against rows of channels
        batch, channels, height, width = expected.shape
        if got.shape[-1] == channels:
            found.append(got.reshape(batch, height, width, channels).permute(0, 3, 1, 2).reshape(-1))
    if expected.dim() == 2 and got.dim() == 2:
        found.append(got.t().reshape(-1))
    return found
