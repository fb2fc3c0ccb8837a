"""FLOPs of a forward or training step: the only counter, on `torch.utils.flop_counter`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def without_grad(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside the block.

    torch's counter of FLOPs follows modules with hooks on what requires one, and raises where a module is
    given a view of a parameter that was made without gradients (seen with torch 2.14: ``'NoneType' object has no
    attribute 'next_functions'``).
    """
    held = [p for p in model.parameters() if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def multiply_adds(model: nn.Module, images: torch.Tensor) -> float:
    """Fused multiply-adds of one forward pass: convolutions, linear layers and attention products.

    ``torch.utils.flop_counter`` counts two FLOPs for each.
    """
    with without_grad(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return float(counter.get_total_flops()) / 2


def conv_backward_flops(
    gradient: Sequence[int],
    images: Sequence[int],
    weight: Sequence[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: object,
    wanted: Sequence[bool],
    out_shape: object = None,
    **_: object,
) -> int:
    """Either gradient of a convolution costs what its forward pass does, whatever the number of groups.

    torch's own formula multiplies the cost of the weight's gradient by the number of groups, which makes a training
    step of a network of depthwise convolutions more than ten times as costly as it is.
    """
    places = prod((images if transposed else gradient)[2:])
    forward = 2 * images[0] * places * prod(weight)
    return forward * sum(map(bool, wanted[:2]))
