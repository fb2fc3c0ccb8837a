"""Parameters, floating-point operations, and the memory traffic of operators."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from harness.measure.weightless import weightless
from harness.measure.workload import Inference, Workload
from harness.untracked import untracked

aten = torch.ops.aten


def count_parameters(model: nn.Module) -> int:
    """Trainable and frozen parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


@dataclass(frozen=True, kw_only=True)
class Count:
    """What one step over the batch asks for, whoever does it and however fast."""

    flops: int
    """Of matrix products and convolutions; a multiply-add counts as two."""
    traffic: int
    """Bytes that all operators read and write, were nothing kept in a cache or fused."""
    dtypes: tuple[str, ...]
    """In which the matrix products and convolutions gave their results, sorted."""


def count(work: Workload) -> Count:
    """Count a step without doing it, on tensors without storage; where the model can't run so, on itself.

    Under autocast on fake tensors, which know their device, else on the meta device, which is quicker.
    """
    try:
        if work.dtype is torch.float32:
            return watched(work.on(copy.deepcopy(work.model).to("meta"), work.batch.to("meta")))
        with weightless(work) as fake:
            return watched(fake)
    except Exception:  # control flow that asks for values, constants on another device: the model itself will do
        return watched(work)


def watched(work: Workload) -> Count:
    """Do one step of ``work``, but for the optimizer's and not compiled, and count what came by."""
    work = work.on(work.model, work.batch)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward})
    with _Traffic() as traffic, counter:
        if isinstance(work, Inference):
            with untracked(work.model):
                work()
        else:
            work.loss().backward()
            work.optimizer.zero_grad(set_to_none=True)
    return Count(
        flops=int(counter.get_total_flops()), traffic=traffic.bytes, dtypes=tuple(sorted(map(_name, traffic.dtypes)))
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of every operator's tensors, views aside, and notes the dtype of those that have a FLOP count.

    A view (its output shares its input's storage and it writes nothing) moves no byte.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not (func.is_view or func in (aten.detach.default, aten._unsafe_view.default)):
            self.bytes += sum(t.numel() * t.element_size() for t in given + made)
        if func.overloadpacket in flop_registry:
            self.dtypes.update(t.dtype for t in made)
        return out


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
