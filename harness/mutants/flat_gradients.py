"""The gradients of several tasks as rows, for projections that are written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def task_gradients(
    losses: Sequence[Tensor], shared: Sequence[nn.Parameter], heads: Sequence[Sequence[nn.Parameter]]
) -> list[Tensor]:
    """Each task's gradient of all shared elements; those of its head are written to ``grad``."""
    rows = []
    for loss, own in zip(losses, heads, strict=True):
        grads = torch.autograd.grad(loss, [*shared, *own], retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads[: len(shared)]]))
        for parameter, gradient in zip(own, grads[len(shared) :], strict=True):
            parameter.grad = gradient
    return rows


def take(shared: Sequence[nn.Parameter], row: Tensor) -> None:
    """Write a row to the shared parameters' ``grad``."""
    for parameter, piece in zip(shared, row.split([p.numel() for p in shared]), strict=True):
        parameter.grad = piece.view_as(parameter)
