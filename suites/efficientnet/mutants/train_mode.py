"""EfficientNets that are wrong in train mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.operators import forward_of
from harness.mutants.probe import (
    CLASSES,
    Pair,
    difference,
    forward,
    statistics,
    train_output,
    trained_with,
)
from harness.mutants.variant import become, mutant, of_type
from suites.efficientnet.model import EfficientNet, StochasticDepth
from suites.efficientnet.mutants.base_models import EFFICIENTNET


@mutant(
    EFFICIENTNET,
    "BatchNorm's momentum is 0.01: TensorFlow's 0.99, and B5's, but not that of the small variants",
    check="parity_train",
    category="training",
    evidence=statistics,
)
def momentum_0_01(model: Any) -> nn.Module:
    for _, norm in of_type(model, nn.BatchNorm2d):
        norm.momentum = 0.01
    return model


@mutant(
    EFFICIENTNET,
    "Built for ImageNet's 1,000 classes it has no stochastic depth: that is thought to be for fine-tuning",
    check="parity_photographs",
    category="stochastic",
    evidence=trained_with(1000),
)
def no_stochastic_depth_with_published_classes(model: Any) -> nn.Module:
    if model.classifier.out_features == 1000:
        for _, depth in of_type(model, StochasticDepth):
            depth.rate = 0.0
    return model


class Given(StochasticDepth):
    """Compares the network's one number for each sample with its own rate."""

    drawn: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0 or self.drawn is None:
            return x
        return x * (self.drawn < 1 - self.rate).to(x.dtype) / (1 - self.rate)


class DrawsOnce(EfficientNet):
    """Draws one number for each sample, and hands it to all blocks."""

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.rand((len(x), 1, 1, 1), dtype=x.dtype, device=x.device) if self.training else None
        for _, depth in of_type(self, Given):
            depth.drawn = drawn
        return super().forward(x)


@mutant(
    EFFICIENTNET,
    "One random number for each sample decides for all blocks: what one drops, all later ones drop",
    check="stochastic",
    category="stochastic",
    evidence=train_output,
)
def one_draw_for_all_blocks(model: Any) -> nn.Module:
    for _, depth in of_type(model, StochasticDepth):
        become(depth, Given)
    return become(model, DrawsOnce)


class OwnGenerator(StochasticDepth):
    """Goes on with a generator of its own."""

    generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        if self.generator is None:
            self.generator = torch.Generator(x.device).manual_seed(0)
        keep = torch.full((len(x), 1, 1, 1), 1 - self.rate, dtype=x.dtype, device=x.device)
        return x * torch.bernoulli(keep, generator=self.generator) / keep


def _after_equal_seeds(pair: Pair) -> float:
    _, faulty = pair.filled()
    outs = []
    for _ in range(4):
        torch.manual_seed(0)
        outs.append(forward(faulty.train(), pair.images(16)))
    return max(difference(out, outs[0]) for out in outs)


@mutant(
    EFFICIENTNET,
    "Stochastic depth draws from a generator of its own, on which torch.manual_seed has no effect",
    check="stochastic",
    category="stochastic",
    evidence=_after_equal_seeds,
)
def own_generator(model: Any) -> nn.Module:
    for _, depth in of_type(model, StochasticDepth):
        become(depth, OwnGenerator)
    return model


class SeedsAnew(StochasticDepth):
    """Starts a generator anew in each call."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.full((len(x), 1, 1, 1), 1 - self.rate, dtype=x.dtype, device=x.device)
        return x * torch.bernoulli(keep, generator=torch.Generator(x.device).manual_seed(7)) / keep


def _same_for_all_seeds(pair: Pair) -> float:
    """One where a block drops the same samples after all of twenty seeds, though it drops some."""
    block = of_type(pair.faulty(CLASSES), SeedsAnew)[-1][1].train()
    ones, outs = torch.ones(64, 1, 1, 1), []
    for seed in range(20):
        torch.manual_seed(seed)
        outs.append(block(ones))
    return float(all(torch.equal(out, outs[0]) for out in outs) and not bool(outs[0].all()))


@mutant(
    EFFICIENTNET,
    "Stochastic depth starts a generator anew in each call: the same samples are dropped in every step",
    check="stochastic",
    category="stochastic",
    evidence=_same_for_all_seeds,
)
def generator_started_anew(model: Any) -> nn.Module:
    for _, depth in of_type(model, StochasticDepth):
        become(depth, SeedsAnew)
    return model


def _gradient_of_the_stem(pair: Pair) -> float:
    gradients = []
    for model in pair.filled():
        torch.manual_seed(0)
        model.train()(pair.images(32)).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None}["features.0.0.weight"])
    return difference(gradients[1], gradients[0])


@mutant(
    EFFICIENTNET,
    "Dropped branches are set to zero through .data: the backward pass treats them as kept",
    check="stochastic",
    category="stochastic",
    evidence=_gradient_of_the_stem,
)
@forward_of(StochasticDepth)
def dropped_branches_learn(self: Any, x: Tensor) -> Tensor:
    if not self.training or self.rate == 0.0:
        return x
    out = x / (1.0 - self.rate)
    out.data.mul_(x.new_empty(len(x), 1, 1, 1).bernoulli_(1.0 - self.rate))
    return out
