"""Random values for tensors of any size, at the price of a small one."""

from __future__ import annotations

import torch
from torch import Tensor

PERIOD = 65_537
"""Drawn values before they repeat: a prime, so that the rows of a matrix don't line up."""


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal values of the shape and dtype of ``like``; beyond `PERIOD` of them they repeat."""
    drawn = torch.randn(min(like.numel(), PERIOD), generator=generator, dtype=torch.float32).to(like.dtype)
    if like.numel() > PERIOD:
        drawn = drawn.repeat(-(-like.numel() // PERIOD))[: like.numel()]
    return drawn.view(like.shape)
