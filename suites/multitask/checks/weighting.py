"""What learnt weights of several losses promise (Kendall et al. 2018)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.checks.side_effects import expect_no_trace, expect_quiet_import
from harness.errors import SubjectError, first_line
from suites.multitask.checks.losses import ROUNDING
from suites.multitask.model import TASKS

WIDEST_START = 5.0
"""Of a log-variance: weights that differ ten-thousandfold at most. Zero is customary."""


def _weighting(bench: Bench, tasks: int = 3) -> nn.Module:
    given = (tasks,) if inspect.signature(bench.subject.factory).parameters else ()
    try:
        made = bench.subject.factory(*given)
    except (Exception, SystemExit) as error:
        raise SubjectError(
            f"{bench.who}: {bench.subject.factory_name}({tasks}) raised {type(error).__name__}: {first_line(error)}"
        ) from error
    assert isinstance(made, nn.Module), f"{bench.who}: gave {type(made).__name__}; expected a torch.nn.Module"
    return made.double()


def _weighted(bench: Bench, module: nn.Module, log_variances: Sequence[float], losses: Tensor) -> Tensor:
    """The module's value with its parameters set, in their order, to ``log_variances``."""
    values = torch.tensor(list(log_variances), dtype=torch.float64)
    at = 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(values[at : at + parameter.numel()].view(parameter.shape))
            at += parameter.numel()
    try:
        value = module(losses)
    except Exception as error:
        raise SubjectError(f"{bench.who}: raised {type(error).__name__}: {first_line(error)}") from error
    assert isinstance(value, Tensor), f"{bench.who}: gave {type(value).__name__}; expected a scalar tensor"
    assert value.numel() == 1, f"{bench.who}: gave a tensor {tuple(value.shape)}; expected a scalar"
    return value.reshape(())


def check_log_variances(bench: Bench) -> None:
    """One trainable number per task, among the module's parameters and its ``state_dict``, where an optimizer and a
    checkpoint find it; small at first, so that no task starts switched off. Making it seeds nothing, and changes no
    setting of the process."""
    expect_quiet_import(bench.subject)
    expect_no_trace(bench.who, lambda: _weighting(bench), "making it")
    for tasks in (2, len(TASKS), 5) if inspect.signature(bench.subject.factory).parameters else (len(TASKS),):
        module = _weighting(bench, tasks)
        count = sum(p.numel() for p in module.parameters() if p.requires_grad)
        assert count == tasks, (
            f"{bench.who}: has {count} trainable numbers for {tasks} tasks; expected one log-variance for each, "
            "as parameters"
        )
        saved = sum(t.numel() for t in module.state_dict().values())
        assert saved >= tasks, f"{bench.who}: state_dict() has {saved} numbers for {tasks} tasks; expected all of them"
        start = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
        widest = float(start.abs().nan_to_num(nan=torch.inf).max())
        assert widest <= WIDEST_START, (
            f"{bench.who}: the log-variances start at {_list(start)}; expected numbers within {WIDEST_START:g} of zero"
        )


def check_weighted_sum(bench: Bench) -> None:
    """Each loss is weighted by c exp(-s) for its own log-variance s, c being 1 or (for regression) 1/2, in either mode.

    That is positive for any s. The rest is b times s for each task, b being 1/2 or 1: without it the weights would go
    to zero. The numbers may as well be log-deviations: c exp(-2 s), and twice the b.
    """
    check_log_variances(bench)
    module = _weighting(bench)
    powers = {1.0, 2.0}
    for values, some, train in (
        ((0.0, 0.0, 0.0), (0.7, 2.0, 0.1), True),
        ((1.0, -2.0, 0.5), (0.7, 2.0, 0.1), False),
        ((-3.0, 3.0, 0.0), (0.01, 50.0, 7.0), True),
        ((-6.0, 6.0, 5.0), (0.02, 300.0, 90.0), True),
        ((0.5, 0.0, -0.5), (4e4, 3e5, 1e6), True),
    ):
        given_losses = torch.tensor(some, dtype=torch.float64, requires_grad=True)
        module.train(train)
        value = _weighted(bench, module, values, given_losses)
        assert value.requires_grad, f"{bench.who}: the value carries no gradient"
        (weights,) = torch.autograd.grad(value, given_losses, allow_unused=True)
        assert weights is not None, f"{bench.who}: the value does not depend on the losses"
        powers = {k for k in powers if _halves_or_ones(weights / torch.exp(-k * torch.tensor(values).double()))}
        assert powers, (
            f"{bench.who}: in {'train' if train else 'eval'} mode, with log-variances {values}, the losses {some} are "
            f"weighted by {_list(weights)}; expected exp(-s), which is {_list(torch.exp(-torch.tensor(values)))}, or "
            "half of it"
        )
    power = min(powers)
    for task in range(len(TASKS)):
        unit = [1.0 if number == task else 0.0 for number in range(len(TASKS))]
        zero = torch.zeros(len(TASKS), dtype=torch.float64)
        step = [float(_weighted(bench, module, [a * u for u in unit], zero).detach()) for a in (0.0, 1.0, 2.0)]
        slope = step[1] - step[0]
        assert abs(step[2] - step[1] - slope) < ROUNDING, (
            f"{bench.who}: the price of a log-variance is not linear in it"
        )
        assert min(abs(slope - 0.5 * power), abs(slope - power)) < ROUNDING, (
            f"{bench.who}: task {task} pays {slope:.3g} for each unit of log-variance; expected 1/2 (or 1), or its "
            "weight goes to zero, or below"
        )


def _halves_or_ones(factors: Tensor) -> bool:
    return all(min(abs(f - 1.0), abs(f - 0.5)) < ROUNDING for f in factors.tolist())


def check_weighting_learns(bench: Bench) -> None:
    """The gradient of every log-variance is the derivative of the value: nothing is cut off."""
    check_log_variances(bench)
    module = _weighting(bench)
    for losses in ([0.7, 2.0, 0.1], [7e3, 2e4, 1e3]):
        _assert_derivative(bench, module, torch.tensor(losses, dtype=torch.float64))


def _assert_derivative(bench: Bench, module: nn.Module, losses: Tensor) -> None:
    """Central differences of 1e-5 are off by 1e-10 times the value, which is the slope's size, and by its rounding."""
    values = [0.3, -0.4, 0.2]
    module.zero_grad()
    value = _weighted(bench, module, values, losses)
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(value, parameters, allow_unused=True) if value.requires_grad else [None] * 9
    missing = [n for (n, _), g in zip(module.named_parameters(), gradients, strict=False) if g is None]
    assert not missing, f"{bench.who}: {', '.join(missing)} receives no gradient, so that it is not learnt"
    flat = torch.cat([g.reshape(-1) for g in gradients if g is not None])
    step = 1e-5
    for task in range(len(TASKS)):
        ends = [
            float(_weighted(bench, module, [v + d * (n == task) for n, v in enumerate(values)], losses).detach())
            for d in (-step, step)
        ]
        slope = (ends[1] - ends[0]) / (2 * step)
        assert abs(float(flat[task]) - slope) < 1e-6 * max(1.0, float(losses.max())), (
            f"{bench.who}: the gradient of log-variance {task} is {float(flat[task]):.4g}; expected {slope:.4g}"
        )


def _list(values: Tensor) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values.tolist()) + ")"
