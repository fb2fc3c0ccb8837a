"""Changing one thing in a model that is already built."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def become(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Give a module another class: its parameters and submodules stay, its ``forward`` changes."""
    module.__class__ = kind
    return module


def replaced(model: M, name: str, module: nn.Module) -> M:
    """``model`` with the submodule called ``name`` exchanged."""
    model.set_submodule(name, module)
    return model


def of_type(model: nn.Module, kind: type[M]) -> list[tuple[str, M]]:
    """Names and modules of exactly this class, in the order of definition."""
    return [(n, m) for n, m in model.named_modules() if type(m) is kind]


class Around(nn.Module):
    """A network inside another module that does something before or after it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
