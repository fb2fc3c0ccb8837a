"""What a mask that is drawn from uniform numbers is on average.

A network may write its dropout by hand: ``x * (torch.rand_like(x) >= p) / (1 - p)``. Put in the place of such a mask,
its expectation (here 1 - p) makes the whole the identity exactly where what is kept is rescaled rightly, whichever
the spelling: a comparison, ``floor(keep + rand)``, ``ceil(rand - p)``, ``heaviside``, a product, ``where`` or
``masked_fill``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

_AT_LEAST = (aten.ge.Scalar, aten.ge.Tensor, aten.gt.Scalar, aten.gt.Tensor)
_AT_MOST = (aten.le.Scalar, aten.le.Tensor, aten.lt.Scalar, aten.lt.Tensor)
_SUMS = (aten.add.Tensor, aten.add_.Tensor, aten.add.Scalar)
_DIFFERENCES = (aten.sub.Tensor, aten.sub_.Tensor, aten.sub.Scalar)


class Expectations:
    """Follows uniform numbers to the masks that are made of them, and answers what is done with those."""

    def __init__(self) -> None:
        # By id, with the low end of the interval of length one, and with the expectation. The tensors are kept, or
        # others would be given their ids.
        self._uniforms: dict[int, tuple[Tensor, float]] = {}
        self._masks: dict[int, tuple[Tensor, float]] = {}

    def follow(self, drawn: Tensor) -> Tensor:
        """Take ``drawn`` for numbers that are uniform in [0, 1)."""
        self._uniforms[id(drawn)] = (drawn, 0.0)
        return drawn

    def answer(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """What the operation gives where it has to do with a number or mask that is followed; None elsewhere."""
        if not self._uniforms and not self._masks:
            return None
        if args and id(args[0]) in self._uniforms:
            return self._of_uniform(func, args, kwargs)
        if any(id(a) in self._masks for a in args):
            return self._of_mask(func, args, kwargs)
        return None

    def _of_uniform(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        drawn, low = self._uniforms[id(args[0])]
        other = _number(args[1]) if len(args) > 1 else None
        if func is aten.floor.default:
            return torch.full_like(drawn, low)
        if func is aten.ceil.default:
            return torch.full_like(drawn, low + 1)
        if func in (aten.floor_.default, aten.ceil_.default):
            del self._uniforms[id(drawn)]
            return drawn.fill_(low if func is aten.floor_.default else low + 1)
        if func is aten.heaviside.default:
            return torch.full_like(drawn, min(max(low + 1, 0.0), 1.0))
        if func in (aten.detach.default, aten.clone.default, aten._to_copy.default):
            return self._moved(func(*args, **kwargs), low)
        if other is None:
            return None
        if func in _AT_LEAST:
            return self._mask(func(*args), min(max(low + 1 - other, 0.0), 1.0))
        if func in _AT_MOST:
            return self._mask(func(*args), min(max(other - low, 0.0), 1.0))
        if func in _SUMS:
            return self._moved(func(*args, **kwargs), low + other)
        if func in _DIFFERENCES:
            return self._moved(func(*args, **kwargs), low - other)
        if func is aten.rsub.Scalar:
            return self._moved(func(*args, **kwargs), other - low - 1)
        return None

    def _of_mask(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        place = next(i for i, a in enumerate(args) if id(a) in self._masks)
        mask, expected = self._masks[id(args[place])]
        if func in (aten.logical_not.default, aten.bitwise_not.default):
            return self._mask(func(mask), 1 - expected)
        if func in (aten.detach.default, aten.clone.default) or kwargs.get("dtype") is torch.bool:
            return self._mask(func(*args, **kwargs), expected)
        if func is aten._to_copy.default:
            return torch.full_like(func(*args, **kwargs), expected)
        if func is aten.where.self and place == 0:
            return expected * args[1] + (1 - expected) * args[2]
        if func in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
            filled: Tensor = args[0] * (1 - expected) + args[2] * expected
            return filled
        if func in (aten.masked_fill_.Scalar, aten.masked_fill_.Tensor):
            result: Tensor = args[0].mul_(1 - expected).add_(args[2] * expected)
            return result
        if func in (aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar):
            return _times(func, args, place, expected)
        return None

    def _mask(self, mask: Tensor, expected: float) -> Tensor:
        self._masks[id(mask)] = (mask, expected)
        return mask

    def _moved(self, drawn: Tensor, low: float) -> Tensor:
        self._uniforms[id(drawn)] = (drawn, low)
        return drawn


def _times(func: Any, args: tuple[Any, ...], place: int, expected: float) -> Tensor:
    """A product or quotient with the expectation in the place of the mask, of the shape that broadcasting gives."""
    other = args[1 - place]
    if isinstance(other, Tensor):
        return func(*((torch.full_like(args[place], expected, dtype=other.dtype), other)[:: 1 if place == 0 else -1]))
    return func(torch.full_like(args[0], expected, dtype=torch.get_default_dtype()), other)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None
