"""ResNets that start from wrong values."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import forward_of
from harness.mutants.probe import CLASSES, Pair, output
from harness.mutants.variant import instead, mutant, of_type, start_fault
from harness.process.global_state import generators
from suites.resnet.model import BasicBlock
from suites.resnet.mutants.base_models import RESNET12, RESNET17, resnet12


def _fresh_loss(pair: Pair) -> float:
    torch.manual_seed(0)
    images = pair.images().float()
    with torch.no_grad():
        losses = [
            F.cross_entropy(factory(10).train()(images), torch.arange(4)) for factory in (pair.faulty, pair.correct)
        ]
    return float((losses[0] - losses[1]).abs())


@start_fault(RESNET17, "Weights start at deviation one: init.normal_(weight, 0.01) sets the mean", evidence=_fresh_loss)
def weights_start_at_deviation_one(model: Any) -> nn.Module:
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, 0.01)
    return model


@start_fault(
    RESNET12,
    "The convolutions start at one constant value, so all their channels stay alike",
    evidence=lambda pair: 1.0 - float(pair.faulty(10).stages[0][0].conv1.weight.detach().std()),
)
def constant_initial_weights(model: Any) -> nn.Module:
    for _, conv in of_type(model, nn.Conv2d):
        nn.init.constant_(conv.weight, 0.01)
    return model


@start_fault(
    RESNET12,
    "The head's weight is drawn from a generator of its own with a fixed seed",
    evidence=lambda pair: float(torch.equal(pair.faulty(10).head.weight, pair.faulty(10).head.weight)),
)
def initial_values_ignore_the_seed(model: Any) -> nn.Module:
    drawn = torch.randn(model.head.weight.shape, generator=torch.Generator("cpu").manual_seed(42), device="cpu")
    with torch.no_grad():
        model.head.weight.copy_(0.01 * drawn)
    return model


@mutant(
    RESNET12,
    "The head's bias is not added: with a bias that starts at zero nothing shows",
    check="gradients",
    category="initialisation",
    evidence=output,
)
@forward_of("head")
def head_bias_not_added(self: Any, input: Tensor) -> Tensor:
    return F.linear(input, self.weight)


@mutant(
    RESNET12,
    "A BatchNorm's loaded running statistics are not used: as freshly built nothing shows",
    check="parity_eval",
    category="initialisation",
    evidence=output,
)
@forward_of("stages.0.0.norm2")
def loaded_statistics_not_used(self: Any, input: Tensor) -> Tensor:
    if self.training:
        return nn.BatchNorm2d.forward(self, input)
    fresh = torch.zeros_like(self.weight), torch.ones_like(self.weight)
    return F.batch_norm(input, *fresh, self.weight, self.bias, False, 0.0, self.eps)


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


@start_fault(
    RESNET12,
    "Both norms of each residual branch start at zero, not the last alone: the branches never learn",
    evidence=_first_gradients,
)
def both_norms_start_at_zero(model: Any) -> nn.Module:
    for _, block in of_type(model, BasicBlock):
        nn.init.zeros_(block.norm1.weight)
        nn.init.zeros_(block.norm2.weight)
    return model


def _first_deviation(model: nn.Module) -> float:
    return float(next(model.parameters()).detach().std())


@start_fault(
    RESNET12,
    "Convolutions start at deviation one, which BatchNorm hides: steps of a usual size hardly turn them",
    evidence=lambda pair: abs(_first_deviation(pair.faulty(10)) / _first_deviation(pair.correct(10)) - 1),
)
def convolutions_start_at_deviation_one(model: Any) -> nn.Module:
    for _, conv in of_type(model, nn.Conv2d):
        nn.init.normal_(conv.weight)
    return model


_remembered = cache(resnet12)


@instead(
    RESNET12,
    "The factory is cached: every call gives the same network",
    check="initialisation",
    category="initialisation",
    evidence=lambda pair: float(pair.faulty(CLASSES) is pair.faulty(CLASSES)),
)
def cached_factory(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    return _remembered(num_classes, in_channels)


@start_fault(
    RESNET12,
    "Every parameter starts from a normal distribution of 0.02, the scales of norms included: signals die out",
    evidence=lambda pair: 1.0 - float(pair.faulty(CLASSES).stem[1].weight.detach().mean()),
)
def scales_start_near_zero(model: Any) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model


KEPT = torch.Generator().manual_seed(11)


def _built_twice(pair: Pair) -> float:
    """Parameters that differ between two networks built after the same seeds."""
    built = []
    for _ in range(2):
        with generators(1):
            built.append(pair.faulty(10))
    first, second = (list(m.parameters()) for m in built)
    return float(sum(not torch.equal(p, q) for p, q in zip(first, second, strict=True)))


@start_fault(
    RESNET12,
    "The head is drawn from a generator of the module's own, which goes on from network to network: no seed decides",
    evidence=_built_twice,
)
def start_from_a_kept_generator(model: Any) -> nn.Module:
    drawn = 0.02 * torch.randn(model.head.weight.shape, generator=KEPT, device="cpu")
    with torch.no_grad():
        model.head.weight.copy_(drawn)
    return model
