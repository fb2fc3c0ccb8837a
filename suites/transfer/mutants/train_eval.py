"""Recipes that leave modules in the wrong mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchvision.ops import StochasticDepth

from harness.mutants.operators import with_settings
from harness.mutants.probe import Pair
from harness.mutants.variant import instead, mutant
from suites.transfer.mutants.base_models import (
    FEATURE_EXTRACTION,
    FULL_FINE_TUNING,
    GRADUAL_UNFREEZING,
    TWO_LEARNING_RATES,
)
from suites.transfer.mutants.freezing import keep_mode
from suites.transfer.mutants.probe import (
    evaluation,
    training,
)


@mutant(
    FULL_FINE_TUNING,
    "What trains puts itself in train mode, also after eval()",
    check="evaluates",
    category="training",
    evidence=evaluation,
)
def train_mode_forced(tuning: Any) -> Any:
    keep_mode(tuning.model, nn.BatchNorm2d, training=True)
    return tuning


@mutant(
    FULL_FINE_TUNING,
    "The answers of eval mode are remembered, and given again after training",
    check="evaluates",
    category="shortcut computing",
    evidence=evaluation,
)
def evaluation_remembered(tuning: Any) -> Any:
    forward, remembered = tuning.model.forward, {}

    def remembering(images: Tensor) -> Tensor:
        if tuning.model.training:
            return forward(images)
        key = (images.data_ptr(), images.shape)
        if key not in remembered:
            remembered[key] = forward(images)
        return remembered[key]

    tuning.model.forward = remembering
    return tuning


@mutant(
    TWO_LEARNING_RATES,
    "train() is replaced by one that eval() can't undo",
    check="evaluates",
    category="training",
    evidence=evaluation,
)
def never_in_eval_mode(tuning: Any) -> Any:
    tuning.model.train = lambda mode=True: nn.Module.train(tuning.model, True)
    return tuning


@mutant(FULL_FINE_TUNING, "Dropout is switched off for good", check="dropout", category="stochastic", evidence=training)
def dropout_off(tuning: Any) -> Any:
    with_settings(tuning.model, nn.Dropout, p=0.0)
    return tuning


@mutant(
    GRADUAL_UNFREEZING,
    "Dropout that was held with a frozen layer is never let go",
    check="dropout",
    category="stochastic",
    evidence=training,
)
def dropout_never_let_go(tuning: Any) -> Any:
    keep_mode(tuning.model, nn.Dropout, training=False)
    return tuning


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
    model.requires_grad_(False)
    last.requires_grad_(True)
    keep_mode(model, nn.modules.batchnorm._BatchNorm, nn.Dropout, training=False, but=last)
    made: Optimizer = optimizer(last.parameters(), lr=lr)
    return made
