"""Correct EfficientNets, written differently."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import Shifts, forward_of, layer_at, with_settings
from harness.mutants.variant import become, correct, of_type, replaced
from suites.efficientnet.model import EfficientNet, MBConv, SiLU, SqueezeExcitation, StochasticDepth
from suites.efficientnet.mutants.base_models import EFFICIENTNET


@correct(EFFICIENTNET, "SiLU is x * sigmoid(x)")
@layer_at(SiLU)
def swish_by_hand(self: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class _SavingSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return gradients[0] * gate * (1 + x * (1 - gate))


@correct(EFFICIENTNET, "Swish is an autograd function that saves memory")
@layer_at(SiLU)
def memory_efficient_swish(self: Any, x: Tensor) -> Tensor:
    return _SavingSwish.apply(x)


class LinearSqueeze(nn.Module):
    """Squeeze-and-excitation with linear layers."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, squeezed)
        self.up = nn.Linear(squeezed, width)

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.up(F.silu(self.down(x.flatten(2).mean(2)))))
        return x * gates[:, :, None, None]


@correct(EFFICIENTNET, "squeeze-and-excitation has linear layers for its 1x1 convolutions")
def linear_squeeze(model: Any) -> nn.Module:
    for name, squeeze in of_type(model, SqueezeExcitation):
        replaced(model, name, LinearSqueeze(squeeze.reduce.in_channels, squeeze.reduce.out_channels))
    return model


@correct(EFFICIENTNET, "stochastic depth is floor(keep + rand)")
@forward_of(StochasticDepth)
def floor_of_uniform(self: Any, x: Tensor) -> Tensor:
    """floor(keep + u), as the authors wrote it."""
    if not self.training:
        return x
    keep = 1 - self.rate
    drawn = torch.rand((len(x), 1, 1, 1), dtype=x.dtype, device=x.device)
    return x / keep * torch.floor(keep + drawn)


@correct(EFFICIENTNET, "stochastic depth is where(rand < keep)")
@forward_of(StochasticDepth)
def uniform_below_keep(self: Any, x: Tensor) -> Tensor:
    if not self.training or self.rate == 0:
        return x
    mask = torch.rand(len(x), dtype=x.dtype, device=x.device) < 1 - self.rate
    return torch.where(mask[:, None, None, None], x / (1 - self.rate), torch.zeros_like(x))


@correct(EFFICIENTNET, "no stochastic depth and no dropout by default, as timm's factories have it")
def without_regularisation(model: Any) -> nn.Module:
    return with_settings(with_settings(model, StochasticDepth, rate=0.0), "dropout", p=0.0)


class Listed(nn.Module):
    """Blocks in one flat list, other names, functional pooling and dropout."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.first, *stages, self.last = model.features
        self.blocks = nn.ModuleList(block for stage in stages for block in stage)
        self.fc = model.classifier

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        x = F.adaptive_avg_pool2d(self.last(x), 1).view(x.shape[0], -1)
        return self.fc(F.dropout(x, 0.2, self.training))


@correct(EFFICIENTNET, "all blocks in one flat list under other names; functional pooling and dropout")
def flat_list(model: Any) -> nn.Module:
    return Listed(model)


@correct(EFFICIENTNET, "shortcut on the left of an addition out of place, every depthwise kernel by its groups")
@forward_of(MBConv)
def shortcut_on_the_left(self: Any, x: Tensor) -> Tensor:
    """Where a block has no shortcut it returns early; addition out of place, shortcut on the left."""
    if not self.residual:
        return self.branch(x)
    return torch.add(x, self.drop_path(self.branch(x)))


class Decided(StochasticDepth):
    """Keeps what the network has decided to keep."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.kept is None else x * self.kept.view(-1, 1, 1, 1) / (1 - self.rate)


class DecidesAtOnce(EfficientNet):
    """Draws for all blocks and all images of the batch together."""

    def forward(self, x: Tensor) -> Any:
        depths = [d for _, d in of_type(self, Decided)]
        drawn = torch.rand(len(depths), len(x), dtype=x.dtype, device=x.device) if self.training else None
        for number, depth in enumerate(depths):
            depth.kept = None if drawn is None else (drawn[number] < 1 - depth.rate).to(x.dtype)
        return super().forward(x)


@correct(EFFICIENTNET, "the numbers of stochastic depth are drawn at once, a row for each block")
def drawn_at_once(model: Any) -> nn.Module:
    for _, depth in of_type(model, StochasticDepth):
        become(depth, Decided)
    return become(model, DecidesAtOnce)


@correct(EFFICIENTNET, "stochastic depth draws one number for each image, in a loop that stacks them")
@forward_of(StochasticDepth)
def depth_in_a_loop(self: Any, x: Tensor) -> Tensor:
    if not self.training or self.rate == 0:
        return x
    keep = 1 - self.rate
    return torch.stack([image / keep if float(torch.rand(())) < keep else 0 * image for image in x])


@correct(EFFICIENTNET, "dropout draws a mask for each image, in a loop that stacks them")
@forward_of()
def dropout_in_a_loop(self: Any, x: Tensor) -> Tensor:
    features = self.features(x).mean((2, 3))
    return self.classifier(torch.stack([F.dropout(row, 0.2, self.training) for row in features]))


class DepthwiseShifts(Shifts):
    """Each channel times its own weight."""

    def one(self, there: Tensor, weight: Tensor) -> Tensor:
        return there * weight[:, 0, None, None]


@correct(EFFICIENTNET, "depthwise convolutions are sums of shifted images times weights")
def depthwise_by_shifts(model: Any) -> nn.Module:
    for _, conv in of_type(model, nn.Conv2d):
        if conv.groups > 1:
            become(conv, DepthwiseShifts)
    return model
