"""That a recipe does what a plain loop does, step by step, and goes on where it was interrupted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from harness.subjects import SubjectError, first_line
from harness.workbench import Workbench
from suites.transfer.backbones import CONVNET, PLAIN
from suites.transfer.probe import rates
from suites.transfer.training import Plan, some, train_step

STEPS = 2
"""In each phase."""
SAME = 1e-7
"""Relative. Two float64 loops that group parameters differently round differently, by 1e-16 a step, which some ten
steps through ReLU and BatchNorm amplify a thousandfold; a rate, a statistic or a decay that is off shows at 1e-4."""
OTHER_SEED = 7


def check_trajectory(bench: Workbench) -> None:
    """Two steps in each phase end where a hand-written loop of plain PyTorch ends.

    The loop trains a twin with the rates, decays and momentum that the recipe's groups declare, holds in eval mode what
    does not train, and does nothing else. Whatever the recipe does beside that (hooks on gradients, steps of its own,
    another forward pass, a scale that is declared and not applied) parts them.
    """
    for backbone in PLAIN:
        plan = Plan(bench, backbone)
        twin = backbone.model()
        optimizer: Optimizer | None = None
        last: Optimizer | None = None
        step = 0
        for _ in plan.phases():
            fresh = last is not None and plan.optimizer is not last and bench.architecture.name != "gradual_unfreezing"
            optimizer = _twin_optimizer(plan, twin, None if fresh else optimizer)
            last = plan.optimizer
            for _ in range(STEPS):
                step += 1
                plan.train(step)
                twin.train()
                for module in twin.modules():
                    own = list(module.parameters())
                    if own and not any(p.requires_grad for p in own):
                        module.eval()
                train_step(twin, optimizer, backbone.batch(step), plan.who)
        _assert_same(plan, dict(twin.state_dict()), f"after {step} steps", "a plain loop with the same groups")


def _twin_optimizer(plan: Plan, twin: nn.Module, before: Optimizer | None) -> Optimizer:
    """The plan's optimizer over the twin's parameters, with the state that the twin has had so far."""
    names = {id(p): n for n, p in plan.given.named_parameters()}
    own = dict(twin.named_parameters())
    for name, parameter in plan.given.named_parameters():
        own[name].requires_grad_(parameter.requires_grad)
    groups: list[dict[str, Any]] = []
    for group in plan.optimizer.param_groups:
        members = [own[names[id(p)]] for p in group["params"] if id(p) in names]
        groups.append({**group, "params": members})
    defaults = {k: v for k, v in plan.optimizer.defaults.items() if k != "decoupled_weight_decay"}
    kind: Any = type(plan.optimizer)
    for group in groups:
        if kind is not torch.optim.Adam:
            group.pop("decoupled_weight_decay", None)
    filled = [g for g in groups if g["params"]]
    assert filled, f"{plan.who}: the optimizer holds no parameter of the network"
    made: Optimizer = kind(filled, **defaults)
    if before is not None:
        for parameter, state in before.state.items():
            made.state[parameter] = state
    return made


def check_resume(bench: Workbench) -> None:
    """Interrupted within the second phase (or the only one) and resumed elsewhere, it ends where it would have ended.

    Saved are the network's state and the recipe's (``state_dict`` of what it returned where it has one, else of the
    optimizer); the other process starts from other weights.
    """
    for backbone in (CONVNET, PLAIN[1]):
        whole = Plan(bench, backbone)
        steps = [(phase, step) for phase in _train_all(whole) for step in range(STEPS)]
        stop = min(STEPS, len(steps) - STEPS) + 1
        first = Plan(bench, backbone)
        for number, (phase, _) in enumerate(steps[:stop]):
            first.to_phase(phase).train(number)
        saved, kept = first.state(), first.saved()
        second = Plan(bench, backbone, seed=OTHER_SEED).to_phase(first.phase)
        second.given.load_state_dict(saved)
        second.restore(kept)
        for number, (phase, _) in enumerate(steps[stop:], start=stop):
            second.to_phase(phase).train(number)
        _assert_same(second, whole.state(), f"resumed after {stop} of {len(steps)} steps", "an uninterrupted run")


def _train_all(plan: Plan) -> list[int]:
    """Train through all phases; their numbers."""
    numbers = []
    for phase in plan.phases():
        for step in range(STEPS):
            plan.train(STEPS * len(numbers) + step)
        numbers.append(phase)
    return numbers


def _assert_same(plan: Plan, expected: dict[str, torch.Tensor], when: str, what: str) -> None:
    got = plan.state()
    errors = {
        n: float((got[n].double() - t.double()).norm()) / max(float(t.double().norm()), 1e-3)
        for n, t in expected.items()
    }
    off = [n for n, error in errors.items() if not error <= SAME]
    assert not off, (
        f"{plan.who}: {when} {len(off)} of {len(errors)} tensors differ from {what}: {some(off)} by "
        f"{errors[off[0]]:.1e} (relative); expected at most {SAME:.0e}"
    )


def check_state_kept(bench: Workbench) -> None:
    """Entering a phase changes no weight and no statistic, and loses none of the optimizer's state of what trained."""
    for backbone in PLAIN:
        plan = Plan(bench, backbone)
        step = 0
        while True:
            plan.train(step)
            weights = plan.state()
            remembered = _memory(plan)
            if not plan.advance():
                break
            now = plan.state()
            moved = [n for n, t in weights.items() if not torch.equal(t, now[n])]
            assert not moved, (
                f"{plan.who}: entering phase {plan.phase} changes {some(moved)}; expected no weight to move"
            )
            after = _memory(plan)
            lost = [n for n, t in remembered.items() if n not in after or not torch.equal(t, after[n])]
            assert not lost, (
                f"{plan.who}: entering phase {plan.phase} loses the optimizer's state of {some(lost)}; expected it "
                "kept when a group is added"
            )
            step += 1


def _memory(plan: Plan) -> dict[str, torch.Tensor]:
    names = {id(p): n for n, p in plan.given.named_parameters()}
    return {
        f"{names[id(p)]} ({key})": value.clone()
        for p, state in plan.optimizer.state.items()
        for key, value in state.items()
        if id(p) in names and isinstance(value, torch.Tensor)
    }


def check_scheduler(bench: Workbench) -> None:
    """A schedule that divides the rate by the number of steps acts on every group, also on those of later phases.

    Measured from one step in each phase, against the same recipe without a schedule.
    """
    backbone = CONVNET
    plan = Plan(bench, backbone, scheduler=lambda optimizer: LambdaLR(optimizer, _harmonic))
    if "scheduler" not in plan.keywords:
        pytest.skip("the recipe takes no scheduler")
    plain = Plan(bench, backbone)
    step = 0
    for phase in plan.phases():
        expected = rates(plain.to_phase(phase))
        for _ in range(STEPS):
            plan.train(step)
            scheduler = plan.scheduler
            assert scheduler is not None, (
                f"{plan.who}: takes a scheduler and offers none; expected it as `scheduler` of what is returned"
            )
            try:
                scheduler.step()
            except Exception as error:
                raise SubjectError(
                    f"{plan.who}: in phase {phase} scheduler.step() raised {type(error).__name__}: {first_line(error)}"
                ) from error
            step += 1
        got = rates(plan)
        off = [
            n
            for n, rate in expected.items()
            if not abs(got.get(n, 0.0) - rate * _harmonic(step)) <= SAME * rate * _harmonic(step)
        ]
        assert not off, (
            f"{plan.who}: in phase {phase}, after {step} steps of a scheduler that divides rates by {step + 1}, a step "
            f"moves {some(off)} by {got.get(off[0], 0.0):.3g}; expected {expected[off[0]] * _harmonic(step):.3g}: "
            "the scheduler does not cover this group"
        )


def _harmonic(step: int) -> float:
    return 1.0 / (1 + step)
