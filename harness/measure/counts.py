"""Parameters and floating-point operations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.measure.workload import Inference, Training, Workload


def count_parameters(model: nn.Module) -> int:
    """Trainable and frozen parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


def count_flops(work: Workload) -> int:
    """Floating-point operations of matrix products and convolutions in one step over the batch.

    A multiply-add counts as two. Counted on a weightless copy on the meta device; where the model can't run there,
    on itself (one step more).
    """
    try:
        model = copy.deepcopy(work.model).to("meta")
        return _count(type(work)(model, work.batch.to("meta")))
    except Exception:  # control flow that asks for values, constants on another device: the model itself will do
        return _count(work)


def _count(work: Workload) -> int:
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward})
    with counter:
        if isinstance(work, Inference):
            work()
        else:
            assert isinstance(work, Training)
            work.loss().backward()
            work.optimizer.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def _backward(
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
