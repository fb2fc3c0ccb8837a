"""ResNets that start wrongly, or whose fault their initial values hide."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import Pair, output
from harness.mutants.mutant import mutant
from harness.mutants.specimens import RESNET12, RESNET17, VIT
from harness.mutants.surgery import become, of_type
from suites.resnet.model import BasicBlock


def _fresh_loss(pair: Pair) -> float:
    torch.manual_seed(0)
    images = pair.images().float()
    with torch.no_grad():
        losses = [
            F.cross_entropy(factory(10).train()(images), torch.arange(4)) for factory in (pair.faulty, pair.correct)
        ]
    return float((losses[0] - losses[1]).abs())


@mutant(
    RESNET17,
    "Weights start at deviation one: init.normal_(weight, 0.01) sets the mean",
    check="initialisation",
    category="initialisation",
    evidence=_fresh_loss,
)
def weights_start_at_deviation_one(model: Any) -> nn.Module:
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, 0.01)
    return model


@mutant(
    RESNET12,
    "The convolutions start at one constant value, so all their channels stay alike",
    check="initialisation",
    category="initialisation",
    evidence=lambda pair: 1.0 - float(pair.faulty(10).stages[0][0].conv1.weight.detach().std()),
)
def constant_initial_weights(model: Any) -> nn.Module:
    for _, conv in of_type(model, nn.Conv2d):
        nn.init.constant_(conv.weight, 0.01)
    return model


@mutant(
    RESNET12,
    "The head's weight is drawn from a generator of its own with a fixed seed",
    check="initialisation",
    category="initialisation",
    evidence=lambda pair: float(torch.equal(pair.faulty(10).head.weight, pair.faulty(10).head.weight)),
)
def initial_values_ignore_the_seed(model: Any) -> nn.Module:
    drawn = torch.randn(model.head.weight.shape, generator=torch.Generator("cpu").manual_seed(42), device="cpu")
    with torch.no_grad():
        model.head.weight.copy_(0.01 * drawn)
    return model


class UnusedBias(nn.Linear):
    """Has a bias and does not add it."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight)


@mutant(
    RESNET12,
    "The head's bias is not added: with a bias that starts at zero nothing shows",
    check="gradients",
    category="initialisation",
    evidence=output,
)
def head_bias_not_added(model: Any) -> nn.Module:
    become(model.head, UnusedBias)
    return model


class IgnoresStatistics(nn.BatchNorm2d):
    """In eval mode normalises as a freshly built one would."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        fresh = torch.zeros_like(self.weight), torch.ones_like(self.weight)
        return F.batch_norm(input, *fresh, self.weight, self.bias, False, 0.0, self.eps)


@mutant(
    RESNET12,
    "A BatchNorm's loaded running statistics are not used: as freshly built nothing shows",
    check="parity_eval",
    category="initialisation",
    evidence=output,
)
def loaded_statistics_not_used(model: Any) -> nn.Module:
    become(model.stages[0][0].norm2, IgnoresStatistics)
    return model


def _first_gradients(pair: Pair) -> float:
    """How many convolutions still have no gradient at all after three steps of the others."""
    torch.manual_seed(0)
    model, images = pair.faulty(10).train(), pair.images().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(4)).backward()
        optimizer.step()
    return float(sum(not bool(conv.weight.grad.any()) for _, conv in of_type(model, nn.Conv2d)))  # type: ignore[union-attr]


@mutant(
    RESNET12,
    "Both norms of each residual branch start at zero, not the last alone: the branches never learn",
    check="initialisation",
    category="initialisation",
    evidence=_first_gradients,
)
def both_norms_start_at_zero(model: Any) -> nn.Module:
    for _, block in of_type(model, BasicBlock):
        nn.init.zeros_(block.norm1.weight)
        nn.init.zeros_(block.norm2.weight)
    return model


def _narrowest(model: nn.Module) -> float:
    return float(min(layer.weight.detach().std() for _, layer in of_type(model, nn.Linear) if bool(layer.weight.any())))


@mutant(
    VIT,
    "The deviation 1e-6 that belongs to the perceptrons' biases lands on their weights",
    check="initialisation",
    category="initialisation",
    evidence=lambda pair: 1 - _narrowest(pair.faulty(10)) / _narrowest(pair.correct(10)),
)
def weights_start_as_biases(model: Any) -> nn.Module:
    for layer in model.layers:
        for _, linear in of_type(layer.mlp, nn.Linear):
            nn.init.normal_(linear.weight, std=1e-6)
    return model
