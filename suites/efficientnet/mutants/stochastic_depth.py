"""EfficientNets whose stochastic depth or dropout is wrong."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import forward_of, method_of, with_settings
from harness.mutants.probe import Pair, train_output
from harness.mutants.state_probe import repeated_call
from harness.mutants.variant import become, mutant, of_type, random_fault
from suites.efficientnet.model import MBConv, StochasticDepth
from suites.efficientnet.mutants.base_models import EFFICIENTNET


class Masking(StochasticDepth):
    """Stochastic depth in parts that a variant changes."""

    def keep(self, x: Tensor) -> Tensor:
        """(batch, 1, 1, 1): the probability of keeping the branch."""
        return torch.full((len(x), 1, 1, 1), 1 - self.rate, dtype=x.dtype, device=x.device)

    def mask(self, x: Tensor) -> Tensor:
        """What the branch is multiplied by in train mode; a shape that broadcasts to that of ``x``."""
        return self.keep(x).bernoulli_(1 - self.rate) / (1 - self.rate)

    def forward(self, x: Tensor) -> Tensor:
        """The branch ``x``, or what is left of it."""
        return x * self.mask(x) if self.training and self.rate > 0 else x


@mutant(
    EFFICIENTNET,
    "Stochastic depth does not divide by the probability of keeping a branch",
    check="parity_train",
    category="stochastic",
    evidence=train_output,
)
@method_of("mask", StochasticDepth, Masking)
def stochastic_depth_not_rescaled(self: Any, x: Tensor) -> Tensor:
    return self.keep(x).bernoulli_(1 - self.rate)


@random_fault(EFFICIENTNET, "Stochastic depth drops a branch for the whole batch")
@method_of("mask", StochasticDepth, Masking)
def stochastic_depth_of_the_batch(self: Any, x: Tensor) -> Tensor:
    return Masking.mask(self, x[:1])


@random_fault(EFFICIENTNET, "Stochastic depth is ordinary dropout on the branch")
@forward_of(StochasticDepth)
def stochastic_depth_per_element(self: Any, x: Tensor) -> Tensor:
    return F.dropout(x, self.rate, self.training)


def _eight_calls(pair: Pair) -> float:
    return max(repeated_call(pair) for _ in range(8))


@mutant(
    EFFICIENTNET,
    "Stochastic depth is active in eval mode",
    check="determinism",
    category="stochastic",
    evidence=_eight_calls,
)
@forward_of(StochasticDepth, Masking)
def stochastic_depth_in_eval_mode(self: Any, x: Tensor) -> Tensor:
    return x * self.mask(x) if self.rate > 0 else x


def _residual(model: nn.Module) -> list[MBConv]:
    return [block for _, block in of_type(model, MBConv) if block.residual]


@random_fault(EFFICIENTNET, "All blocks have the same rate of stochastic depth")
def stochastic_depth_constant(model: Any) -> nn.Module:
    return with_settings(model, StochasticDepth, rate=0.2)


@random_fault(EFFICIENTNET, "The rates of stochastic depth fall with depth where they should grow")
def stochastic_depth_reversed(model: Any) -> nn.Module:
    depths = [depth for _, depth in of_type(model, StochasticDepth)]
    rates = [depth.rate for depth in depths]
    for depth, rate in zip(depths, reversed(rates), strict=True):
        depth.rate = rate
    return model


@random_fault(EFFICIENTNET, "The rates are spread so that the last block has the full rate: off by one block")
def stochastic_depth_off_by_one(model: Any) -> nn.Module:
    depths = [depth for _, depth in of_type(model, StochasticDepth)]
    for position, depth in enumerate(depths):
        depth.rate = 0.2 * (position + 1) / len(depths)
    return model


@random_fault(EFFICIENTNET, "The rate of one block is taken for its probability of being kept")
def stochastic_depth_keeps_the_rate(model: Any) -> nn.Module:
    depth = _residual(model)[2].drop_path
    depth.rate = 1 - depth.rate
    return model


@random_fault(EFFICIENTNET, "One residual branch is never dropped")
def stochastic_depth_missing_once(model: Any) -> nn.Module:
    _residual(model)[1].drop_path.rate = 0.0
    return model


class DropsTheSum(MBConv):
    """Drops branch and shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        return self.drop_path(out + x) if self.residual else out


@random_fault(EFFICIENTNET, "Stochastic depth acts on the sum, so that it drops the shortcut too")
def stochastic_depth_on_the_sum(model: Any) -> nn.Module:
    for block in _residual(model):
        become(block, DropsTheSum)
    return model


@mutant(
    EFFICIENTNET,
    "Dropout in front of the classifier is active in eval mode",
    check="determinism",
    category="stochastic",
    evidence=repeated_call,
)
@forward_of("dropout")
def dropout_in_eval_mode(self: Any, input: Tensor) -> Tensor:
    return F.dropout(input, self.p, True)


@mutant(
    EFFICIENTNET,
    "Dropout in front of the classifier has rate 0.5, B7's, for 0.2",
    check="parity_train",
    category="stochastic",
    evidence=train_output,
)
def dropout_of_another_variant(model: Any) -> nn.Module:
    return with_settings(model, "dropout", p=0.5)


@mutant(
    EFFICIENTNET,
    "Dropout scales in eval mode instead of in training",
    check="parity_eval",
    category="stochastic",
)
@forward_of("dropout")
def dropout_scales_in_eval_mode(self: Any, input: Tensor) -> Tensor:
    """The dropout of 2014: scales in eval mode."""
    if not self.training:
        return input * (1 - self.p)
    return input * torch.empty_like(input).bernoulli_(1 - self.p)


@mutant(
    EFFICIENTNET,
    "Dropout sits behind the classifier, on the logits",
    check="parity_train",
    category="stochastic",
    evidence=train_output,
)
def dropout_on_the_logits(model: Any) -> nn.Module:
    model.classifier = nn.Sequential(model.classifier, model.dropout)
    model.dropout = nn.Identity()
    return model
