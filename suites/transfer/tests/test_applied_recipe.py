"""What the checks make of whatever a recipe does: its exits, its answers, its own optimizer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from harness.bench.bench import Bench
from harness.errors import SubjectError
from harness.subjects.subject import Subject
from suites.transfer.architectures import FAMILY, LP_FT
from suites.transfer.checks.applied_recipe import Plan, train_step
from suites.transfer.checks.backbones import CONVNET, DEEP, DROPOUT, TORCHVISION_VIT
from suites.transfer.checks.reference_loop import hold, twin_optimizer


def plan(recipe: Callable[..., Any]) -> Plan:
    module = ModuleType("made")
    module.__dict__["lp_ft"] = recipe
    subject = Subject(
        label="made", spec="made", architecture=LP_FT, family=FAMILY, factory_name="lp_ft", module=lambda: module
    )
    return Plan(Bench(subject), CONVNET)


def nothing(model: nn.Module, head: str) -> Iterator[Optimizer]:
    yield from ()


def leaving(model: nn.Module, head: str) -> None:
    sys.exit("bye")


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (nothing, r"the generator yields no optimizer; a recipe returns"),
        (leaving, r"lp_ft\(model, 'fc'\) raised SystemExit: bye"),
    ],
)
def test_what_gives_no_optimizer_is_said(recipe: Callable[..., Any], says: str) -> None:
    with pytest.raises(SubjectError, match=says):
        plan(recipe)


class Phased(NamedTuple):
    optimizer: Optimizer
    answers: list[Any]

    def advance(self) -> Any:
        return self.answers.pop(0)


@pytest.mark.parametrize("last", [False, 0, torch.tensor(False)])
def test_falsehood_ends_phases_and_none_does_not(last: Any) -> None:
    made = plan(lambda model, head: Phased(torch.optim.SGD(model.parameters(), lr=0.1), [True, None, last]))
    assert made.has_phases
    assert list(made.phases()) == [0, 1, 2]


class Counting(torch.optim.SGD):
    """Takes steps of its own number, over a list of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.1, momentum=0.9)
        self.network, self.own, self.count = model, list(model.parameters()), 0

    def step(self, closure: Any = None) -> Any:
        self.count += 1
        for parameter in self.own:
            assert parameter.grad is not None
            parameter.grad.mul_(self.count)
        return super().step(closure)


def test_a_twin_optimizer_has_what_the_other_keeps_and_not_what_is_hooked_to_it() -> None:
    given = plan(lambda model, head: Counting(model))
    given.optimizer.register_step_pre_hook(lambda *_: pytest.fail("the twin's steps call hooks of the other"))
    before = given.state()
    twin = CONVNET.model()
    made = twin_optimizer(given, twin, None)
    assert isinstance(made, Counting)
    assert made.network is twin
    assert all(a is b for a, b in zip(made.own, twin.parameters(), strict=True))
    hold(twin)
    train_step(twin, made, CONVNET.batch(0), "twin")
    assert (made.count, given.optimizer.count) == (1, 0)  # type: ignore[attr-defined]
    assert all(torch.equal(t, before[n]) for n, t in given.state().items())
    again = twin_optimizer(given, twin, made)
    assert all(again.state[p] is made.state[p] for p in twin.parameters())


def test_layers_are_numbered_from_the_input() -> None:
    assert DEEP.layer("blocks.10.0.weight") == 11
    assert TORCHVISION_VIT.layer("encoder.ln.weight") == DROPOUT.layer("norm.bias") == 3.5
    with pytest.raises(SubjectError, match=r"adapter\.weight is no parameter of a plain convolutional network"):
        CONVNET.layer("adapter.weight")
