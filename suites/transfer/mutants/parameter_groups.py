"""Recipes whose parameter groups hold the wrong parameters or settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.mutants.probe import Pair
from harness.mutants.variant import instead
from suites.transfer.mutants.base_models import TWO_LEARNING_RATES
from suites.transfer.mutants.learning_rates import with_two_rates
from suites.transfer.mutants.probe import Witness


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
    return with_two_rates(optimizer, lr, list(own), list(set(model.parameters()) - own))


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
    return with_two_rates(optimizer, lr, own, [p for n, p in model.named_parameters() if n.split(".")[0] != first])


def _undecayed(pair: Pair) -> float:
    """The weight decay of any group where none is asked for."""
    tuning = pair.faulty(Witness(), "head", weight_decay=0.0)
    return float(max(group["weight_decay"] for group in tuning.optimizer.param_groups))


@instead(
    TWO_LEARNING_RATES,
    "A weight decay of zero is taken for none given: 0.05 acts",
    check="decay_groups",
    evidence=_undecayed,
)
def zero_decay_not_taken(
    model: nn.Module, head: str, *, lr: float = 1e-2, weight_decay: float = 0.0, optimizer: Any = torch.optim.AdamW
) -> Any:
    return TWO_LEARNING_RATES.factory(model, head, lr=lr, weight_decay=weight_decay or 0.05, optimizer=optimizer)
