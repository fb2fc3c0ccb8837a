"""The logits in whatever a forward pass returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def logits_of(output: Any, num_classes: int) -> Tensor:
    """The one tensor of shape (batch, ``num_classes``) in a tensor, tuple, list, dict or dataclass.

    Raises TypeError that says what was returned where there is none, or more than one, or it holds no real numbers.
    """
    if isinstance(output, Tensor):
        if not output.is_floating_point():
            raise TypeError(f"forward returned {describe(output)}; expected floating-point logits")
        return output
    found = [t for t in _tensors(output) if t.ndim == 2 and t.shape[1] == num_classes and t.is_floating_point()]
    if len(found) == 1:
        return found[0]
    raise TypeError(
        f"forward returned {describe(output)}; expected a tensor of shape (batch, {num_classes}), "
        f"or a tuple, dict or dataclass with exactly one such tensor, got {len(found)}"
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def describe(value: Any) -> str:
    """A short account of a value: type, and for tensors shape and dtype."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "a dict {" + ", ".join(f"{k!r}: {describe(v)}" for k, v in list(value.items())[:4]) + "}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of ({', '.join(describe(v) for v in list(value)[:4])})"
    return f"{type(value).__name__}" if value is not None else "None"
