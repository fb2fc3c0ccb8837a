"""EfficientNets that are wrong in train mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.operators import forward_of, with_settings
from harness.mutants.probe import CLASSES, Pair, compared, difference, forward, trained_with
from harness.mutants.variant import become, mutant, of_type, random_fault, statistics_fault
from suites.efficientnet.model import EfficientNet, StochasticDepth
from suites.efficientnet.mutants.base_models import EFFICIENTNET
from suites.efficientnet.mutants.stochastic_depth import Masking


@statistics_fault(
    EFFICIENTNET, "BatchNorm's momentum is 0.01: TensorFlow's 0.99, and B5's, but not that of the small variants"
)
def momentum_0_01(model: Any) -> nn.Module:
    return with_settings(model, nn.BatchNorm2d, momentum=0.01)


@mutant(
    EFFICIENTNET,
    "Built for ImageNet's 1,000 classes it has no stochastic depth: that is thought to be for fine-tuning",
    check="parity_photographs",
    category="stochastic",
    evidence=trained_with(1000),
)
def no_stochastic_depth_with_published_classes(model: Any) -> nn.Module:
    return with_settings(model, StochasticDepth, rate=0.0) if model.classifier.out_features == 1000 else model


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


@random_fault(
    EFFICIENTNET, "One random number for each sample decides for all blocks: what one drops, all later ones drop"
)
def one_draw_for_all_blocks(model: Any) -> nn.Module:
    for _, depth in of_type(model, StochasticDepth):
        become(depth, Given)
    return become(model, DrawsOnce)


class OwnGenerator(Masking):
    """Goes on with a generator of its own."""

    generator: torch.Generator | None = None

    def mask(self, x: Tensor) -> Tensor:
        """Drawn from it."""
        if self.generator is None:
            self.generator = torch.Generator(x.device).manual_seed(0)
        return torch.bernoulli(self.keep(x), generator=self.generator) / self.keep(x)


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


class SeedsAnew(Masking):
    """Starts a generator anew in each call."""

    def mask(self, x: Tensor) -> Tensor:
        """The same in each call."""
        return torch.bernoulli(self.keep(x), generator=torch.Generator(x.device).manual_seed(7)) / self.keep(x)


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


@compared
def _gradient_of_the_stem(model: Any, pair: Pair) -> Tensor:
    torch.manual_seed(0)
    model.train()(pair.images(32)).sum().backward()
    gradient: Tensor = model.features[0][0].weight.grad
    return gradient


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
