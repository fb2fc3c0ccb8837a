"""That a schedule acts on every group, in every phase, and is not undone between them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler

from harness.bench.bench import Bench
from suites.transfer.checks.applied_recipe import Plan, some
from suites.transfer.checks.backbones import CONVNET
from suites.transfer.checks.effective_rates import rates

STEPS = 2
"""In each phase."""
EQUAL = 1e-7
"""Relative. Rates are read off float64 steps from zero and multiplied some ten times: 1e-15."""
GAMMA = 0.5


def check_scheduler(bench: Bench) -> None:
    """A schedule acts on every group, also on those of later phases, and entering a phase leaves it where it was.

    Measured from steps, against the same recipe without a schedule: with one that divides the rates by the number of
    steps, worked out from the rates of the start, and with one that halves them, worked out from those before. The two
    phases of `lp_ft` are two trainings, each of which may have a schedule of its own.
    """
    plan = Plan(bench, CONVNET, scheduler=by_steps)
    if "scheduler" not in plan.keywords:
        pytest.skip("the recipe takes no scheduler")
    plain = Plan(bench, CONVNET)
    step, last = 0, plan.scheduler
    for phase in plan.phases():
        without = rates(plain.to_phase(phase))
        if _starts_anew(bench, plan, last, without):
            step = 0
        last = plan.scheduler
        step = _train(plan, step)
        _assert_rates(
            plan,
            {n: rate / (1 + step) for n, rate in without.items()},
            f"after {step} steps of a scheduler that divides rates by {step + 1}",
            "the scheduler does not cover this group, or started from another rate",
        )
    _assert_goes_on(bench, Plan(bench, CONVNET, scheduler=halving), Plan(bench, CONVNET))


def by_steps(optimizer: Optimizer) -> LambdaLR:
    """Divides the rates of the start by the number of steps."""
    return LambdaLR(optimizer, lambda step: 1.0 / (1 + step))


def halving(optimizer: Optimizer) -> ExponentialLR:
    """Halves the rates as they are."""
    return ExponentialLR(optimizer, GAMMA)


def _starts_anew(bench: Bench, plan: Plan, last: LRScheduler | None, without: Mapping[str, float]) -> bool:
    """Whether this phase has another scheduler, which has not acted yet, where it may."""
    if bench.architecture.name != "lp_ft" or plan.scheduler is last:
        return False
    now = rates(plan)
    return all(abs(now.get(n, 0.0) - rate) <= EQUAL * rate for n, rate in without.items())


def _assert_goes_on(bench: Bench, plan: Plan, plain: Plan) -> None:
    """What trained before enters a phase at the rate that the schedule had come to, and halves from there."""
    step, last = 0, plan.scheduler
    left: dict[str, float] = {}
    without: dict[str, float] = {}
    for phase in plan.phases():
        earlier, without = without, rates(plain.to_phase(phase))
        entered = rates(plan)
        if _starts_anew(bench, plan, last, without):
            left = {}
        last = plan.scheduler
        expected = {n: rate * without[n] / earlier[n] for n, rate in left.items() if n in without and earlier[n]}
        _assert_rates(
            plan, expected, "right after it is entered", "entering it threw away the schedule so far", entered
        )
        step = _train(plan, step)
        left = {n: rate * GAMMA**STEPS for n, rate in entered.items()}
        _assert_rates(
            plan,
            left,
            f"after {STEPS} steps of a scheduler that halves rates",
            "this group did not follow the schedule from the rate that it had",
        )


def _train(plan: Plan, step: int) -> int:
    for _ in range(STEPS):
        plan.train(step)
        assert plan.scheduler is not None, (
            f"{plan.who}: takes a scheduler and offers none; expected it as `scheduler` of what is returned"
        )
        plan.step_schedule()
        step += 1
    return step


def _assert_rates(
    plan: Plan, expected: Mapping[str, float], when: str, why: str, measured: Mapping[str, float] | None = None
) -> None:
    got = rates(plan) if measured is None else measured
    off = [n for n, rate in expected.items() if not abs(got.get(n, 0.0) - rate) <= EQUAL * rate]
    assert not off, (
        f"{plan.who}: in phase {plan.phase}, {when}, a step moves {some(off)} by {got.get(off[0], 0.0):.3g}; expected "
        f"{expected[off[0]]:.3g}: {why}"
    )
