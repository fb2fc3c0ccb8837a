"""Correct recipes in other forms than ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchvision.ops import StochasticDepth

from harness.mutants.variant import correct_instead
from suites.transfer.mutants.base_models import (
    FEATURE_EXTRACTION,
    FULL_FINE_TUNING,
    GRADUAL_UNFREEZING,
    LAYERWISE_DECAY,
    LP_FT,
    TWO_LEARNING_RATES,
)


def _freeze(model: nn.Module, trained: nn.Module) -> None:
    """No gradients outside ``trained``; every other module answers train() by staying in eval mode."""
    model.requires_grad_(False)
    trained.requires_grad_(True)
    spared = {id(m) for m in trained.modules()}

    def stay(mode: bool = True) -> None:
        for module in model.modules():
            module.training = mode and (module is model or id(module) in spared)

    model.train = stay  # type: ignore[method-assign, assignment]
    stay()


@correct_instead(FEATURE_EXTRACTION, "returns a plain optimizer, and replaces train() of the network")
def plain_optimizer(
    model: nn.Module, head: str, lr: float = 1e-3, weight_decay: float = 0.0, optimizer: Any = torch.optim.SGD
) -> Optimizer:
    last = model.get_submodule(head)
    _freeze(model, last)
    made: Optimizer = optimizer(last.parameters(), lr=lr, weight_decay=weight_decay)
    return made


@correct_instead(FEATURE_EXTRACTION, "its own Adam, no keyword at all, and the pair of network and optimizer as result")
def model_and_adam(model: nn.Module, head: str) -> tuple[nn.Module, Optimizer]:
    last = model.get_submodule(head)
    _freeze(model, last)
    return model, torch.optim.Adam(last.parameters(), lr=1e-2)


@correct_instead(TWO_LEARNING_RATES, "groups by name, weight decay by the kind of module, and AdamW of its own")
def groups_by_name(model: nn.Module, head: str, *, lr: float = 1e-3, weight_decay: float = 0.05) -> Optimizer:
    model.get_submodule(head)
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    groups = []
    for name, parameter in model.named_parameters():
        plain = name in norms or name.endswith("bias")
        rate = lr if name.startswith(f"{head}.") else 0.1 * lr
        groups.append({"params": [parameter], "lr": rate, "weight_decay": 0.0 if plain else weight_decay})
    return torch.optim.AdamW(groups)


@correct_instead(GRADUAL_UNFREEZING, "a generator that adds a group to one optimizer for each layer that it unfreezes")
def groups_as_they_come(
    model: nn.Module, head: str, *, lr: float = 1e-2, weight_decay: float = 0.0, optimizer: Any = torch.optim.SGD
) -> Iterator[Optimizer]:
    from suites.transfer.layer_groups import layers_of

    named = dict(model.named_parameters())
    layers = layers_of(model, head)[::-1]
    model.requires_grad_(False)

    def hold(mode: bool = True) -> None:
        nn.Module.train(model, mode)
        for module in model.modules():
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                nn.Module.train(module, False)

    model.train = hold  # type: ignore[method-assign, assignment]
    made: Optimizer | None = None
    rate = lr
    for layer in layers:
        groups = [
            {"params": [named[n] for n in layer if named[n].ndim > 1], "lr": rate, "weight_decay": weight_decay},
            {"params": [named[n] for n in layer if named[n].ndim < 2], "lr": rate, "weight_decay": 0.0},
        ]
        for name in layer:
            named[name].requires_grad_(True)
        filled = [g for g in groups if g["params"]]
        if made is None:
            made = optimizer(filled)
        else:
            for group in filled:
                made.add_param_group(group)
        rate /= 2
        yield made


class Thawing:
    """Unfreezes a third of the network at a time, with one group for each parameter."""

    def __init__(self, model: nn.Module, head: str) -> None:
        self.model = model
        prefix = head.split(".")[0] + "."
        names = [n for n, _ in model.named_parameters()]
        body = [n for n in names if not n.startswith(prefix)]
        parts = list(dict.fromkeys(n.split(".")[0] for n in body))
        if len(parts) < 5:  # one container holds the layers
            parts = list(dict.fromkeys(".".join(n.split(".")[:3]) for n in body))
        middle = len(parts) // 2
        stages = [parts[middle:], parts[:middle]]
        self.waiting = [[n for n in body if any(n == p or n.startswith(f"{p}.") for p in s)] for s in stages]
        self.parameters = dict(model.named_parameters())
        model.get_submodule(head)
        first = [n for n in names if n.startswith(prefix)]
        rates = {n: 10.0 ** -(2 + k) for k, s in enumerate([first, *self.waiting]) for n in s}
        self.optimizer = torch.optim.Adam([{"params": [self.parameters[n]], "lr": rates[n]} for n in names])
        self.show(first)

    def show(self, names: list[str]) -> None:
        """Train these, and what trained before."""
        if not hasattr(self, "trained"):
            self.trained: set[str] = set()
        self.trained |= set(names)
        for name, parameter in self.parameters.items():
            parameter.requires_grad = name in self.trained
        for module in self.model.modules():
            own = list(module.parameters(recurse=False))
            frozen = bool(own) and not any(p.requires_grad for p in own)
            if frozen:
                module.train = lambda mode=True, m=module: nn.Module.train(m, False)  # type: ignore[misc, method-assign]
            elif "train" in vars(module):
                del module.train
        self.model.train()

    def advance(self) -> bool:
        """The next part."""
        if not self.waiting:
            return False
        self.show(self.waiting.pop(0))
        return True


@correct_instead(LAYERWISE_DECAY, "timm's own groups, their scale applied by hand")
def timm_groups(
    model: nn.Module, head: str, *, lr: float = 1e-2, weight_decay: float = 0.0, optimizer: Any = torch.optim.SGD
) -> Optimizer:
    from suites.transfer.layer_groups import layers_of

    if not hasattr(model, "group_matcher"):
        layers = layers_of(model, head, coarse=False)
        named = dict(model.named_parameters())
        return optimizer(
            [
                {
                    "params": [named[n]],
                    "lr": lr * 0.5 ** (len(layers) - 1 - depth),
                    "weight_decay": 0.0 if named[n].ndim < 2 else weight_decay,
                }
                for depth, layer in enumerate(layers)
                for n in layer
            ]
        )
    from timm.optim._param_groups import param_groups_layer_decay

    model.get_submodule(head)
    groups = param_groups_layer_decay(model, weight_decay=weight_decay, layer_decay=0.5)
    return optimizer([{**g, "lr": lr * g["lr_scale"]} for g in groups])


@correct_instead(LP_FT, "two optimizers, one after the other, from a generator")
def two_optimizers(model: nn.Module, head: str, *, lr: float = 1e-2) -> Iterator[Optimizer]:
    last = model.get_submodule(head)
    _freeze(model, last)
    yield torch.optim.SGD(last.parameters(), lr=lr, momentum=0.9)
    del model.train
    model.requires_grad_(True)
    yield torch.optim.SGD(model.parameters(), lr=lr / 10, momentum=0.9)


@correct_instead(FULL_FINE_TUNING, "an optimizer of the network's parameters")
def everything(model: nn.Module, head: str, *, lr: float = 1e-2) -> Optimizer:
    model.get_submodule(head)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


@correct_instead(
    GRADUAL_UNFREEZING, "three phases, one group for each parameter, and train() replaced module by module"
)
def thirds(model: nn.Module, head: str) -> Thawing:
    return Thawing(model, head)


class Heavy(Optimizer):
    """Momentum whose constructor takes a network and rates by name, and keeps what it needs beside the groups."""

    def __init__(self, model: nn.Module, rates: dict[str, float], *, friction: float) -> None:
        super().__init__([{"params": [p], "lr": rates[n]} for n, p in model.named_parameters()], {})
        self.friction = friction

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Velocity, then a step along it."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
                    velocity.mul_(1 - self.friction).add_(parameter.grad)
                    parameter.sub_(group["lr"] * velocity)


@correct_instead(TWO_LEARNING_RATES, "an optimizer of its own, with other arguments than torch's")
def own_optimizer(model: nn.Module, head: str, *, lr: float = 1e-2) -> Optimizer:
    model.get_submodule(head)
    rates = {n: lr if n.startswith(f"{head}.") else lr / 20 for n, _ in model.named_parameters()}
    return Heavy(model, rates, friction=0.2)


class FixedNorm(nn.Module):
    """BatchNorm2d with everything in buffers and without a count of batches: nothing in it can move."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Any (batch, channels, height, width), scaled and shifted by channel."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


@correct_instead(
    FEATURE_EXTRACTION, "BatchNorm replaced by a norm without statistics to move, and rates of dropping at 0"
)
def norms_replaced(
    model: nn.Module, head: str, *, lr: float = 1e-2, weight_decay: float = 0.0, optimizer: Any = torch.optim.SGD
) -> Optimizer:
    last = model.get_submodule(head)
    model.requires_grad_(False)
    last.requires_grad_(True)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0
        elif isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, FixedNorm(module))
    made: Optimizer = optimizer(last.parameters(), lr=lr, weight_decay=weight_decay)
    return made


class Stages(NamedTuple):
    """A network, its optimizer, and what is still to be done to it, last first."""

    model: nn.Module
    optimizer: Optimizer
    waiting: list[Callable[[], object]]

    def advance(self) -> Any:
        """The next one; NumPy's False where there is none."""
        if self.waiting:
            self.waiting.pop()()
            return np.bool_(True)
        return np.bool_(False)


@correct_instead(LP_FT, "a named tuple with a method that answers with NumPy's booleans")
def named_tuple(model: nn.Module, head: str, *, lr: float = 1e-2) -> Stages:
    last = model.get_submodule(head)
    _freeze(model, last)

    def release() -> None:
        del model.train
        model.requires_grad_(True).train()

    return Stages(model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), [release])


@correct_instead(LP_FT, "two trainings, each with an optimizer and a schedule of its own")
def two_trainings(
    model: nn.Module, head: str, *, lr: float = 1e-2, optimizer: Any = torch.optim.SGD, scheduler: Any = None
) -> Iterator[tuple[Optimizer, Any]]:
    last = model.get_submodule(head)
    _freeze(model, last)
    for part, rate in ((last, lr), (model, lr / 10)):
        if part is model:
            del model.train
            model.requires_grad_(True)
        made = optimizer(part.parameters(), lr=rate)
        yield made, scheduler(made) if scheduler is not None else None
