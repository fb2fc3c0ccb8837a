"""Changes that variants of several families share.

`forward_of`, `method_of`, `layer_at` and `around` stand below ``mutant`` or ``correct``: they turn a forward pass (or
another method, with ``self``) into the surgery that gives it to a part of the network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.variant import Around, M, Surgery, become, of_type, replaced

Site = str | type[nn.Module]
"""A submodule's name ("" is the whole network), or the class that all modules to change are exactly of."""


def modules_at(model: nn.Module, site: Site) -> list[tuple[str, Any]]:
    """Names and modules. Raises AttributeError for a name that there is none of."""
    return [(site, model.get_submodule(site))] if isinstance(site, str) else of_type(model, site)


def method_of(method: str, site: Site = "", kind: Any = None) -> Callable[[Callable[..., Any]], Surgery]:
    """The function becomes that method of the modules at ``site``; each stays of its class, or becomes a ``kind``."""

    def make(function: Callable[..., Any]) -> Surgery:
        @wraps(function)
        def surgery(model: Any) -> nn.Module:
            for _, module in modules_at(model, site):
                base: Any = kind or type(module)
                become(module, _subclass(function, base, method))
            return model

        return surgery

    return make


def forward_of(site: Site = "", kind: Any = None) -> Callable[[Callable[..., Any]], Surgery]:
    """The function becomes the forward pass of the modules at ``site``."""
    return method_of("forward", site, kind)


def layer_at(site: Site) -> Callable[[Callable[..., Any]], Surgery]:
    """A layer without parameters, whose forward pass the function is, stands in place of the modules at ``site``."""

    def make(function: Callable[..., Any]) -> Surgery:
        @wraps(function)
        def surgery(model: Any) -> nn.Module:
            for name, _ in modules_at(model, site):
                replaced(model, name, _subclass(function, nn.Module, "forward")())
            return model

        return surgery

    return make


def around(function: Callable[..., Any]) -> Surgery:
    """The function becomes the forward pass of a module that holds the network as ``self.net``."""

    @wraps(function)
    def surgery(model: Any) -> nn.Module:
        return _subclass(function, Around, "forward")(model)

    return surgery


@cache
def _subclass(function: Callable[..., Any], kind: Any, method: str) -> Any:
    """``kind`` with another method, under a name by which pickle finds it."""
    name, module = f"{function.__name__}_of_{kind.__name__}", function.__module__
    made = type(name, (kind,), {method: function, "__module__": module})
    setattr(sys.modules[module], name, made)
    return made


def with_settings(model: M, site: Site, **settings: Any) -> M:
    """``model`` with other attributes of the modules at ``site``."""
    for _, module in modules_at(model, site):
        for name, value in settings.items():
            setattr(module, name, value)
    return model


@method_of("load_state_dict")
def loading_leniently(self: Any, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
    """Takes any state."""
    return nn.Module.load_state_dict(self, state_dict, strict=False, assign=assign)


def _without_gradients(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if module.training:
        module.zero_grad()


def clearing_gradients(model: M) -> M:
    """Starts each pass in train mode without gradients."""
    model.register_forward_pre_hook(_without_gradients)
    return model


class ThroughBfloat16(nn.Module):
    """Rounds what passes to bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """The same, with eight bits of mantissa."""
        return x.to(torch.bfloat16).to(x.dtype)


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
