"""A twin of what a recipe was given, and of its optimizer, that a plain loop trains."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.optim import Optimizer

from suites.transfer.checks.applied_recipe import Plan, some


def twin_optimizer(plan: Plan, twin: nn.Module, before: Optimizer | None) -> Optimizer:
    """The plan's optimizer over the twin's parameters, with the state that the twin's has had so far.

    It is copied as torch copies optimizers, without calling a constructor, whose arguments are its class's own; hooks
    and a replaced ``step`` stay behind. The twin's parameters come to train as the plan's do.
    """
    own = dict(twin.named_parameters())
    given = dict(plan.given.named_parameters())
    added = [n for n in given if n not in own]
    assert not added, f"{plan.who}: {some(added)} is no parameter of the given network; expected no others to train"
    for name, parameter in own.items():
        parameter.requires_grad_(name in given and given[name].requires_grad)
    source = plan.optimizer
    held = {id(p) for group in source.param_groups for p in group["params"]}
    assert any(id(p) in held for p in given.values()), f"{plan.who}: the optimizer holds no parameter of the network"
    made: Optimizer = type(source).__new__(type(source))
    memo: dict[int, Any] = {id(p): own[n] for n, p in given.items()}
    memo |= {id(source): made, id(plan.given): twin, id(plan.model): twin}
    attributes = {
        n: _copied(value, memo)
        for n, value in vars(source).items()
        if n != "step" and not n.startswith("_optimizer_")  # a scheduler replaces step; the rest are hooks
    }
    made.__setstate__(attributes)
    if before is not None:
        made.state.update(before.state)
    return made


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # a lock or an open file is shared
        return value


def hold(twin: nn.Module) -> None:
    """Train mode, but for what has parameters of which none trains."""
    twin.train()
    for module in twin.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
