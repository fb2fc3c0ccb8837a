"""Every shape that a forward pass goes through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.numerics.convolution import output_side

aten = torch.ops.aten
BATCH_NORMS = (
    aten.native_batch_norm.default,
    aten.cudnn_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten._batch_norm_no_update.default,
)


MOVES = frozenset(
    {"clone", "_to_copy", "copy_", "contiguous", "_unsafe_view", "_reshape_copy", "cat", "stack", "repeat"}
)
"""Operations that copy: which of them run may depend on how an input of one channel lies in memory."""
MAKES = ("empty", "new_", "full", "zeros", "ones", "arange", "scalar_tensor")


class ShapeTrace(TorchDispatchMode):
    """Every shape that appears in a forward pass.

    On the meta device torch composes convolutions, batch-normalisations and element-wise operations in Python, at up
    to 3 ms each. Their shapes follow one rule each, which is applied here instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()
        self.operations: Counter[str] = Counter()
        """How often each operation ran; what views, copies or makes tensors computes nothing, and is left out."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in MOVES and not name.startswith(MAKES):
            self.operations[name] += 1
        quick = _by_rule(func, args, kwargs)
        if quick is not None:
            out = quick if isinstance(quick, Tensor) else quick[0]
            self.seen.add(tuple(out.shape))
            return quick
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.seen.add(tuple(out.shape))
        elif isinstance(out, tuple):
            self.seen.update(tuple(t.shape) for t in out if isinstance(t, Tensor))
        return out


def _by_rule(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> Any:
    """What an operation gives on meta tensors where that is a matter of shapes alone; None where it is not."""
    if kwargs or not args or not isinstance(args[0], Tensor) or not args[0].is_meta:
        return None
    first = args[0]
    if func is aten.convolution.default:
        return _convolved(*args)
    if func in BATCH_NORMS and args[3] is not None:
        if args[3].numel() != first.shape[1]:
            raise RuntimeError(f"running_mean has {args[3].numel()} elements, not {first.shape[1]}")
        empty = _made((0,), first)
        return _alike(first), empty, empty, *([empty] if func is BATCH_NORMS[3] else [])
    if func is aten.native_layer_norm.default:
        kept = first.shape[: first.ndim - len(args[1])]
        if tuple(args[1]) != tuple(first.shape[first.ndim - len(args[1]) :]):
            return None
        shape = (*kept, *[1] * len(args[1]))
        return _alike(first), _made(shape, first), _made(shape, first)
    if func in (aten._softmax.default, aten._log_softmax.default) and args[2] is False:
        return _alike(first)
    if func is aten.mean.dim and first.is_floating_point() and len(args) > 1 and args[1]:
        dims = {d % first.ndim for d in args[1]}
        keep = len(args) > 2 and args[2]
        sides = [1 if d in dims else n for d, n in enumerate(first.shape) if keep or d not in dims]
        return _made(sides, first)
    if torch.Tag.pointwise not in func.tags:
        return None
    operands = [a for a in args if isinstance(a, Tensor)]
    if any(t.dtype is not first.dtype or not t.is_meta for t in operands) or not first.is_floating_point():
        return None
    shape = _broadcast(operands)
    name = func.overloadpacket.__name__
    if name.endswith("_") and not name.endswith("__"):
        return first if shape == first.shape else None  # the operation itself says what is wrong
    if name in COMPARISONS:
        return None
    return _made(shape, first)


def _convolved(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    """What a plain two-dimensional convolution gives; None for the rest, and where something does not fit."""
    plain = not transposed and images.ndim == weight.ndim == 4 and len(stride) == len(padding) == len(dilation) == 2
    if not plain or images.shape[1] != groups * weight.shape[1]:
        return None
    if any(t.dtype is not images.dtype or not t.is_meta for t in (weight, bias) if t is not None):
        return None
    if len(weight) % groups or (bias is not None and bias.shape != weight.shape[:1]):  # torch itself lets it pass here
        raise RuntimeError(f"a weight of {tuple(weight.shape)} does not fit {groups} groups, or its bias does not")
    kernel = weight.shape[2:]
    sides = [output_side(*axis) for axis in zip(images.shape[2:], kernel, stride, padding, dilation, strict=True)]
    return _made((images.shape[0], weight.shape[0], *sides), images) if min(sides) > 0 else None


def _made(shape: Sequence[int], like: Tensor) -> Tensor:
    """As ``like.new_empty(shape)``, which torch composes in Python for meta tensors at four times the cost."""
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _alike(tensor: Tensor) -> Tensor:
    """As `torch.empty_like`, strides included."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _broadcast(operands: Sequence[Tensor]) -> torch.Size:
    shapes = {t.shape for t in operands}
    return shapes.pop() if len(shapes) == 1 else torch.broadcast_shapes(*shapes)


COMPARISONS = frozenset(
    (
        *("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite"),
        *("isposinf", "isneginf", "logical_not", "logical_and", "logical_or", "logical_xor", "signbit"),
    )
)
