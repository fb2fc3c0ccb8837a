"""Convolutions in float64 on the CPU, by other ways than torch's where those are many times as fast.

torch computes depthwise ones a channel at a time, and dense ones an image at a time: on small feature maps that was
more than half of what a verdict took. What is computed is the same; only the order of the sums differs, by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.numerics import depthwise_conv, small_map_conv
from harness.numerics.convolution import Convolution, plain, understood

aten = torch.ops.aten
WAYS = (depthwise_conv, small_map_conv)


class FastConv(TorchDispatchMode):
    """Takes the shortcuts, and leaves everything else alone.

    To be entered around what traces a network, never inside it: a trace would see the shortcut's operations.
    """

    def __init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The quick result where there is one."""
        found = shortcut(func, args)
        return func(*args, **(kwargs or {})) if found is None else found


def shortcut(func: Any, args: Sequence[Any]) -> Any:
    """What ``func(*args)`` gives where it is a convolution, or its backward pass, that is faster here; else None."""
    if func is aten.convolution.default:
        found = understood(args[0], args[1], *args[3:9])
        return None if found is None else _forward(found, args[2])
    if func is aten.convolution_backward.default:
        found = understood(args[1], args[2], *args[4:10])
        return None if found is None else _backward(found, args[0], args[10])
    return None


def _forward(found: Convolution, bias: Tensor | None) -> Tensor | None:
    usual = bias is None or (bias.dtype is torch.float64 and bias.shape == found.weight.shape[:1])
    return next((way.forward(found, bias) for way in WAYS if usual and way.fits(found)), None)


def _backward(found: Convolution, gradient: Tensor, wanted: Sequence[bool]) -> tuple[Tensor | None, ...] | None:
    way = next((way for way in WAYS if plain(gradient) and way.fits(found)), None)
    if way is None:
        return None
    of_images, of_weight = way.backward(found, gradient, wanted[0], wanted[1])
    return of_images, of_weight, gradient.sum((0, 2, 3)) if wanted[2] else None
