"""Rates and weight decay as an optimizer applies them, measured from steps and not read from its groups."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.errors import SubjectError, first_line
from suites.transfer.checks.applied_recipe import RAISED, Plan


def rates(plan: Plan) -> dict[str, float]:
    """How far a step moves each trainable parameter against a gradient of ones; zero where it does not move.

    The parameters stand at zero for that step, so that weight decay adds nothing. For SGD the distance is the learning
    rate; for the Adam family it is the rate over 1 + eps; for any optimizer without state it is in proportion to the
    rate, which is all that is compared. Nothing is left changed.
    """
    return {name: float(-moved.mean()) for name, moved in _stepped(plan, value=0.0, gradient=1.0).items()}


def decays(plan: Plan) -> dict[str, float]:
    """How far a step moves each trainable parameter, standing at one, with a gradient of zero: only by weight decay."""
    return {name: float(-moved.mean()) for name, moved in _stepped(plan, value=1.0, gradient=0.0).items()}


def _stepped(plan: Plan, *, value: float, gradient: float) -> dict[str, Tensor]:
    parameters = {n: p for n, p in plan.given.named_parameters() if p.requires_grad}
    with _put_back(plan), torch.no_grad():
        plan.optimizer.state.clear()  # what momentum remembers is not this step's
        for parameter in plan.given.parameters():
            parameter.grad = None
        for parameter in parameters.values():
            parameter.fill_(value)
            parameter.grad = torch.full_like(parameter, gradient)
        try:
            plan.optimizer.step()
        except RAISED as error:
            raise SubjectError(
                f"{plan.who}: in phase {plan.phase} a step with gradients of {gradient:g} raised "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        return {name: parameter - value for name, parameter in parameters.items()}


@contextmanager
def _put_back(plan: Plan) -> Iterator[None]:
    parameters = list(plan.given.parameters())
    values = [p.detach().clone() for p in parameters]
    state = copy.deepcopy(plan.optimizer.state_dict())
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
                parameter.grad = None
        plan.optimizer.load_state_dict(state)
