"""Changes that variants of several families share."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.variant import Around


class CachedByShape(Around):
    """In eval mode answers the first call of each shape, and repeats that."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.answers: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        """The first answer for this shape."""
        if self.training or torch.is_grad_enabled():
            return self.net(x)
        key = (tuple(x.shape), x.dtype)
        if key not in self.answers:
            self.answers[key] = self.net(x)
        return self.answers[key]


class ByItsInput(torch.autograd.Function):
    """A linear layer whose backward pass does nothing where its input needs no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """A linear layer."""
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        """No gradient at all where the input needs none."""
        if not ctx.needs_input_grad[0]:
            return None, None, None
        x, weight = ctx.saved_tensors
        return sent[0] @ weight, sent[0].flatten(0, -2).mT @ x.flatten(0, -2), sent[0].flatten(0, -2).sum(0)


class Shifts(nn.Conv2d):
    """A sum over the kernel's places of the shifted images' products with its weight there."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution as a sum of shifted products."""
        (kernel, _), (stride, _), padding = self.kernel_size, self.stride, int(self.padding[0])
        height, width = ((side + 2 * padding - kernel) // stride for side in input.shape[2:])
        padded, total = F.pad(input, (padding,) * 4), torch.zeros((), dtype=input.dtype, device=input.device)
        for i, j in product(range(kernel), repeat=2):
            there = padded[:, :, i : i + stride * height + 1 : stride, j : j + stride * width + 1 : stride]
            total = total + self.one(there, self.weight[:, :, i, j])
        return total

    def one(self, there: Tensor, weight: Tensor) -> Tensor:
        """The summand of one place."""
        return torch.einsum("bihw,oi->bohw", there, weight)
