"""Uncertainty weightings that are wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.operators import forward_of
from harness.mutants.probe import Pair, difference
from harness.mutants.variant import instead, mutant
from suites.multitask.model import UncertaintyWeighting
from suites.multitask.mutants import probe as evidence
from suites.multitask.mutants.base_models import WEIGHTING


class Plain(UncertaintyWeighting):
    """The log-variances as a plain attribute."""

    def __init__(self, tasks: int = 3) -> None:
        super().__init__(tasks)
        value = self.log_variance.detach()
        del self.log_variance
        self.register_buffer("log_variance", value)


@instead(
    WEIGHTING,
    "The log-variances are no parameters, so that no optimizer finds them",
    check="log_variances",
    evidence=evidence.weighting,
)
def no_parameters(tasks: int = 3) -> nn.Module:
    return Plain(tasks)


@mutant(
    WEIGHTING,
    "Without the price of a variance all weights go to zero",
    check="weighted_sum",
    category="training",
    evidence=evidence.weighting,
)
@forward_of()
def variance_for_free(self: Any, losses: Tensor) -> Tensor:
    return (torch.exp(-self.log_variance) * losses).sum()


@mutant(
    WEIGHTING,
    "The weight grows with the variance",
    check="weighted_sum",
    category="training",
    evidence=evidence.weighting,
)
@forward_of()
def sign_lost(self: Any, losses: Tensor) -> Tensor:
    return (torch.exp(self.log_variance) * losses + 0.5 * self.log_variance).sum()


@mutant(
    WEIGHTING,
    "The parameter is the deviation, not the log-variance",
    check="weighted_sum",
    category="training",
    evidence=evidence.weighting,
)
@forward_of()
def deviation_as_parameter(self: Any, losses: Tensor) -> Tensor:
    """The parameter taken for the standard deviation, which may come to zero or below."""
    return (losses / (2 * (1 + self.log_variance) ** 2) + torch.log((1 + self.log_variance).abs())).sum()


@mutant(
    WEIGHTING,
    "The log-variance feels its price alone, not its loss",
    check="weighting_learns",
    category="gradient",
    evidence=evidence.weighting,
)
@forward_of()
def weight_detached(self: Any, losses: Tensor) -> Tensor:
    return (torch.exp(-self.log_variance.detach()) * losses + 0.5 * self.log_variance).sum()


def _evaluated(pair: Pair) -> float:
    values = []
    for build in (pair.correct, pair.faulty):
        module = build(3).eval()
        nn.init.constant_(next(module.parameters()), 0.5)
        values.append(module(torch.tensor([0.5, 1.5, 2.5])).detach())
    return difference(values[1], values[0])


@mutant(
    WEIGHTING,
    "In eval mode the losses are added as they are",
    check="weighted_sum",
    category="training",
    evidence=_evaluated,
)
@forward_of()
def plain_when_evaluated(self: Any, losses: Tensor) -> Tensor:
    return UncertaintyWeighting.forward(self, losses) if self.training else losses.sum()


@mutant(
    WEIGHTING,
    "The log-variances start anywhere",
    check="log_variances",
    category="initialisation",
    evidence=lambda pair: float(pair.faulty(3).log_variance.detach().abs().max()),
)
def starts_anywhere(module: Any) -> nn.Module:
    nn.init.normal_(module.log_variance, 9.0, 0.5)
    return module


@instead(
    WEIGHTING,
    "There are three log-variances for any number of tasks",
    check="log_variances",
    category="size",
    evidence=lambda pair: abs(float(sum(p.numel() for p in pair.faulty(5).parameters())) - 5),
)
def always_three(tasks: int = 3) -> nn.Module:
    return UncertaintyWeighting()


def _at_four(pair: Pair) -> float:
    values = []
    for build in (pair.correct, pair.faulty):
        module = build(3)
        nn.init.constant_(next(module.parameters()), 4.0)
        values.append(module(torch.ones(3)).item())
    return abs(values[1] - values[0])


@mutant(
    WEIGHTING,
    "Log-variances are clamped to +-3: tasks twenty times as noisy as others can't be told",
    check="weighted_sum",
    category="training",
    evidence=_at_four,
)
@forward_of()
def log_variances_clamped(self: Any, losses: Tensor) -> Tensor:
    kept = self.log_variance.clamp(-3.0, 3.0)
    return (torch.exp(-kept) * losses + 0.5 * kept).sum()


@mutant(
    WEIGHTING,
    "Losses above a thousand count as a thousand, and carry no gradient",
    check="weighted_sum",
    category="gradient",
    evidence=lambda pair: difference(
        *(build(3)(torch.full((3,), 1e4)).detach() for build in (pair.faulty, pair.correct))
    ),
)
@forward_of()
def large_losses_capped(self: Any, losses: Tensor) -> Tensor:
    return UncertaintyWeighting.forward(self, losses.clamp(max=1e3))
