"""Random values for tensors of any size, at the price of a small one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PERIOD = 65_537
"""Drawn values before they repeat: a prime, so that the rows of a matrix don't line up."""


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal values of the shape and dtype of ``like``; beyond `PERIOD` of them they repeat."""
    drawn = _drawn(like, generator)
    if like.numel() > PERIOD:
        drawn = drawn.repeat(-(-like.numel() // PERIOD))[: like.numel()]
    return drawn.view(like.shape)


def beside_noise(tensor: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of ``tensor`` that make it up, each with the noise that `noise` would give there (broadcast over rows).

    What is done in place to the views is done to the tensor, without memory for as much noise again.
    """
    if not tensor.is_contiguous():
        yield tensor, noise(tensor, generator)
        return
    drawn, flat = _drawn(tensor, generator), tensor.view(-1)
    whole = flat.numel() // PERIOD * PERIOD
    if whole:
        yield flat[:whole].view(-1, PERIOD), drawn
    if whole < flat.numel():
        yield flat[whole:], drawn[: flat.numel() - whole]


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(min(like.numel(), PERIOD), generator=generator, dtype=torch.float32).to(like.dtype)
