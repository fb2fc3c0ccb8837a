"""Functions of torch, torchvision and timm that somebody has put others in the place of.

A model that does so changes what its references compute as well, and then agrees with them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

LIBRARIES = ("torchvision.models.", "torchvision.ops.", "timm.models.", "timm.layers.")
"""Packages whose loaded modules are watched, beside torch's own functions and layers."""
DYNAMO = ("torch._dynamo", "torch._compile")
"""What torch itself wraps a few of its functions with, when it is first asked to compile."""
DATA = (str, int, float, tuple, dict, type(None))
"""Values of names that aren't called: documentation, constants, registries."""


@dataclass(frozen=True)
class Holder:
    """A module with functions or a class with methods, and what it holds."""

    name: str
    thing: Any
    held: dict[str, Any]

    def replaced(self) -> list[str]:
        """Names that stand for something else by now; those that there were none of before are no matter."""
        return [n for n, v in vars(self.thing).items() if self._stood_for(n, v) and not _by_torch(v)]

    def put_back(self) -> None:
        """Undo what `replaced` tells of."""
        for name in self.replaced():
            if name in self.held:
                setattr(self.thing, name, self.held[name])
            else:
                delattr(self.thing, name)

    def _stood_for(self, name: str, value: Any) -> bool:
        """Whether ``name`` gave something else than ``value``, its own or inherited."""
        if isinstance(value, DATA):
            return False
        if name in self.held:
            return self.held[name] is not value
        return any(name in vars(base) for base in getattr(self.thing, "__mro__", ())[1:])


def holders() -> list[Holder]:
    """torch, its layers, and the modules of torchvision's and timm's models that are loaded."""
    return [
        Holder(name, thing, {n: v for n, v in list(vars(thing).items()) if not isinstance(v, DATA)})
        for name, thing in _things()
    ]


def replaced(before: list[Holder]) -> list[str]:
    """What isn't any more what it was in ``before``, by full names."""
    return [f"{holder.name}.{name}" for holder in before for name in holder.replaced()]


def put_back(before: list[Holder]) -> None:
    """Undo what `replaced` tells of."""
    for holder in before:
        holder.put_back()


def _things() -> Iterator[tuple[str, Any]]:
    yield from (("torch", torch), ("torch.Tensor", torch.Tensor), ("torch.nn", nn))
    yield from (("torch.nn.functional", F), ("torch.nn.init", nn.init))
    yield from ((f"torch.nn.{name}", layer) for name, layer in list(vars(nn).items()) if isinstance(layer, type))
    for name, module in list(sys.modules.items()):
        if module is None or not f"{name}.".startswith(LIBRARIES):
            continue
        own = [v for v in list(vars(module).values()) if getattr(v, "__module__", None) == name]
        yield from ((f"{name}.{v.__qualname__}", v) for v in own if isinstance(v, type))
        if any(isinstance(v, FunctionType) for v in own):
            yield name, module


def _by_torch(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith(DYNAMO)
