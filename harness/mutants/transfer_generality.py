"""Recipes that work for the network and the optimizer at hand, and not for others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchvision.ops import StochasticDepth

from harness.mutants.evidence import Pair
from harness.mutants.mutant import instead
from harness.mutants.recipes import FEATURE_EXTRACTION, TWO_LEARNING_RATES, Witness


def _decayed_norm(pair: Pair) -> float:
    """How far AdamW with its own weight decay moves the last norm's scale under a gradient of zero."""
    model = Witness()
    tuning = pair.faulty(model, "head", optimizer=torch.optim.AdamW)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = model.norm.weight.detach().clone()
    getattr(tuning, "optimizer", tuning).step()
    return float((model.norm.weight.detach() - before).abs().max())


@instead(
    TWO_LEARNING_RATES,
    "The groups of norms and biases say nothing of weight decay, so that the optimizer's own acts (AdamW's is 0.01)",
    check="decay_groups",
    evidence=_decayed_norm,
)
def default_decay_of_norms(
    model: nn.Module, head: str, *, lr: float = 1e-2, weight_decay: float = 0.1, optimizer: Any = torch.optim.AdamW
) -> Optimizer:
    own = {id(p) for p in model.get_submodule(head).parameters()}
    groups: list[dict[str, Any]] = []
    for rate, listed in ((lr / 10, False), (lr, True)):
        parameters = [p for p in model.parameters() if (id(p) in own) is listed]
        groups.append({"params": [p for p in parameters if p.ndim > 1], "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": [p for p in parameters if p.ndim <= 1], "lr": rate})
    made: Optimizer = optimizer(groups)
    return made


def _orders(pair: Pair) -> float:
    """How many different orders of parameters eight networks get, less one."""
    orders, alive = set(), []
    for _ in range(8):
        model = Witness()
        alive.append(model)
        optimizer = pair.faulty(model, "head")
        names = {id(p): n for n, p in model.named_parameters()}
        orders.add(tuple(names[id(p)] for group in optimizer.param_groups for p in group["params"]))
    return float(len(orders) - 1)


@instead(
    TWO_LEARNING_RATES,
    "The backbone's parameters come from a set: another order in each process, and a loaded state goes astray",
    check="groups",
    evidence=_orders,
)
def parameters_from_a_set(
    model: nn.Module, head: str, *, lr: float = 1e-2, optimizer: Any = torch.optim.SGD
) -> Optimizer:
    own = set(model.get_submodule(head).parameters())
    rest = set(model.parameters()) - own
    made: Optimizer = optimizer([{"params": list(rest), "lr": lr / 10}, {"params": list(own), "lr": lr}])
    return made


class Dropping(nn.Module):
    """A residual block whose branch is dropped now and then, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), StochasticDepth(0.5, "row"))
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.branch(x)).mean((2, 3)))


def _dropping(pair: Pair) -> float:
    """How far two passes in train mode lie apart."""
    model = Dropping()
    pair.faulty(model, "head")
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return max(float((model.train()(images) - model(images)).abs().max()) for _ in range(4))


@instead(
    FEATURE_EXTRACTION,
    "Only BatchNorm and dropout are held in eval mode: stochastic depth goes on dropping frozen branches",
    check="frozen_features",
    category="training",
    evidence=_dropping,
)
def stochastic_depth_goes_on(
    model: nn.Module, head: str, *, lr: float = 1e-2, optimizer: Any = torch.optim.SGD
) -> Optimizer:
    last = model.get_submodule(head)
    spared = set(last.modules())
    model.requires_grad_(False)
    last.requires_grad_(True)

    def hold(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        module.training = False

    for module in model.modules():
        if module not in spared and isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout):
            module.register_forward_pre_hook(hold)
    made: Optimizer = optimizer(last.parameters(), lr=lr)
    return made


class Inside(nn.Module):
    """A network in ``net``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Witness()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def _rates_inside(pair: Pair) -> float:
    """How many parameters of the backbone get the head's rate, of a network that lies in another."""
    model = Inside()
    optimizer = pair.faulty(model, "net.head", lr=1.0)
    own = {id(p) for p in model.net.head.parameters()}
    return float(
        sum(group["lr"] == 1.0 and id(p) not in own for group in optimizer.param_groups for p in group["params"])
    )


@instead(
    TWO_LEARNING_RATES,
    "The head is told by the first part of its name: of a network inside another, all is head",
    check="rates",
    evidence=_rates_inside,
)
def head_by_first_part(model: nn.Module, head: str, *, lr: float = 1e-2, optimizer: Any = torch.optim.SGD) -> Optimizer:
    model.get_submodule(head)
    first = head.split(".")[0]
    own = [p for n, p in model.named_parameters() if n.split(".")[0] == first]
    rest = [p for n, p in model.named_parameters() if n.split(".")[0] != first]
    groups = [{"params": rest, "lr": lr / 10}, {"params": own, "lr": lr}]
    made: Optimizer = optimizer([g for g in groups if g["params"]])
    return made
