"""EfficientNet-B0 to B7 (Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks").

Compound scaling makes the family out of B0: `compound_scale` is the paper's equation 3, `COEFFICIENTS` the rounded
multipliers that were published for B1 to B7, and `round_filters` and `round_repeats` turn a multiplier into whole
channels and blocks. Padding is symmetric and BatchNorm's constants are torchvision's.

EfficientNet-Lite0 is the member for devices without fast sigmoids: no squeeze-and-excitation, ReLU6 for SiLU, stem and
head fixed. It pads as TensorFlow does, where its weights come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class StageSetting(NamedTuple):
    """One row of Table 1: what the stage's blocks share, before scaling."""

    expansion: int
    kernel: int
    stride: int
    width: int
    repeats: int


STEM_WIDTH, HEAD_WIDTH = 32, 1280
STAGES = (
    StageSetting(1, 3, 1, 16, 1),
    StageSetting(6, 3, 2, 24, 2),
    StageSetting(6, 5, 2, 40, 2),
    StageSetting(6, 3, 2, 80, 3),
    StageSetting(6, 5, 1, 112, 3),
    StageSetting(6, 5, 2, 192, 4),
    StageSetting(6, 3, 1, 320, 1),
)


class Scale(NamedTuple):
    """Multipliers of B0's width and depth, and the image side in pixels."""

    width: float
    depth: float
    resolution: int


COEFFICIENTS = (
    Scale(1.0, 1.0, 224),
    Scale(1.0, 1.1, 240),
    Scale(1.1, 1.2, 260),
    Scale(1.2, 1.4, 300),
    Scale(1.4, 1.8, 380),
    Scale(1.6, 2.2, 456),
    Scale(1.8, 2.6, 528),
    Scale(2.0, 3.1, 600),
)


def compound_scale(phi: float, *, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15) -> Scale:
    """Equation 3: depth ``alpha**phi``, width ``beta**phi``, resolution ``gamma**phi`` times B0's.

    The defaults are the paper's grid search under ``alpha * beta**2 * gamma**2 ~ 2``, so that each step of ``phi``
    doubles the cost; ``phi=0`` is B0. Raises ValueError for a negative or infinite ``phi``.
    """
    if not (math.isfinite(phi) and phi >= 0):
        raise ValueError(f"phi={phi}: the compound coefficient must be a finite number, 0 (B0) or more")
    return Scale(beta**phi, alpha**phi, round(224 * gamma**phi))


def round_filters(channels: float, multiplier: float = 1.0, divisor: int = 8) -> int:
    """``channels * multiplier`` rounded to the nearest multiple of ``divisor``, never by more than 10 % downwards."""
    scaled = channels * multiplier
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def round_repeats(repeats: int, multiplier: float) -> int:
    """Blocks of a scaled stage: rounded up."""
    return math.ceil(repeats * multiplier)


class SiLU(nn.SiLU):
    """``x * sigmoid(x)``, in place in inference only: in place while training, autograd would first copy ``x``."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        return F.silu(x, inplace=not torch.is_grad_enabled())


class SamePadConv2d(nn.Conv2d):
    """Pads as TensorFlow's "SAME": to ``ceil(size / stride)`` outputs, the odd pixel to the right and below."""

    def forward(self, x: Float[Tensor, "batch in_width height width"]) -> Float[Tensor, "batch out_width h w"]:
        """Pads by what this input's size needs, then convolves."""
        high, wide = (
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            for size, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        )
        return super().forward(F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))


class Recipe(NamedTuple):
    """What differs between the B series and Lite within a block."""

    activation: Callable[[], nn.Module] = SiLU
    squeeze: bool = True
    same_padding: bool = False
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1


def conv_norm(
    recipe: Recipe, in_width: int, width: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Convolution without bias, BatchNorm and, unless ``act`` is false, the activation."""
    pads_itself = recipe.same_padding and stride > 1
    convolution, padding = (SamePadConv2d, 0) if pads_itself else (nn.Conv2d, kernel // 2)
    conv = convolution(in_width, width, kernel, stride, padding=padding, groups=groups, bias=False)
    norm = nn.BatchNorm2d(width, eps=recipe.norm_eps, momentum=recipe.norm_momentum)
    return nn.Sequential(conv, norm, recipe.activation()) if act else nn.Sequential(conv, norm)


class SqueezeExcitation(nn.Module):
    """One gate in (0, 1) per sample and channel, computed from the channel means (Hu et al. 2018)."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, squeezed, 1)
        self.activation = SiLU()
        self.expand = nn.Conv2d(squeezed, width, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Float[Tensor, "batch width h w"]) -> Float[Tensor, "batch width h w"]:
        """``x`` times its gates."""
        gates: Tensor = self.gate(self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * gates


class StochasticDepth(nn.Module):
    """Drops a sample's whole residual branch with probability ``rate`` in training, and divides what stays by
    ``1 - rate`` so that the expectation stays (Huang et al. 2016). The identity in evaluation."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch width h w"]) -> Float[Tensor, "batch width h w"]:
        """One draw per sample."""
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1.0 - self.rate)
        return x * keep.div_(1.0 - self.rate)


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, squeeze-and-excitation, linear 1x1 projection.

    The squeeze has a quarter of the block's *input* width. The shortcut is there where width and size stay.
    """

    def __init__(self, recipe: Recipe, in_width: int, setting: StageSetting, drop_path: float) -> None:
        super().__init__()
        expansion, kernel, stride, width, _ = setting
        expanded = in_width * expansion
        layers: list[nn.Module] = [conv_norm(recipe, in_width, expanded)] if expansion > 1 else []
        layers.append(conv_norm(recipe, expanded, expanded, kernel, stride=stride, groups=expanded))
        if recipe.squeeze:
            layers.append(SqueezeExcitation(expanded, max(1, in_width // 4)))
        layers.append(conv_norm(recipe, expanded, width, act=False))
        self.branch = nn.Sequential(*layers)
        self.drop_path = StochasticDepth(drop_path)
        self.residual = stride == 1 and in_width == width

    def forward(self, x: Float[Tensor, "batch in_width height width"]) -> Float[Tensor, "batch width h w"]:
        """The branch, plus its input where shapes allow."""
        out: Tensor = self.branch(x)
        if self.residual:
            out = self.drop_path(out)
            out += x
        return out


class EfficientNet(nn.Module):
    """Stem, seven stages of `MBConv`, a 1x1 convolution (these nine are ``features``), pooling, dropout, linear head.

    ``width`` and ``depth`` are multipliers of B0. Stochastic depth grows linearly over the blocks from 0 towards
    ``drop_path`` at the end of the network. With ``fixed_ends`` (Lite) the stem, the head and the repeats of the first
    and last stage are not scaled. Raises ValueError for rates outside [0, 1), counts under 1 and multipliers of 0.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        *,
        recipe: Recipe | None = None,
        fixed_ends: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        check_arguments(width, depth, num_classes, in_channels, dropout, drop_path)
        recipe = recipe or Recipe()
        self.in_channels = in_channels
        stem_width, head_width = (c if fixed_ends else round_filters(c, width) for c in (STEM_WIDTH, HEAD_WIDTH))
        stages: list[nn.Module] = [conv_norm(recipe, in_channels, stem_width, 3, stride=2)]
        ends = (0, len(STAGES) - 1) if fixed_ends else ()
        repeats = [s.repeats if i in ends else round_repeats(s.repeats, depth) for i, s in enumerate(STAGES)]
        in_width, position, total = stem_width, 0, sum(repeats)
        for setting, repeat in zip(STAGES, repeats, strict=True):
            setting = setting._replace(width=round_filters(setting.width, width))
            blocks: list[nn.Module] = []
            for _ in range(repeat):
                blocks.append(MBConv(recipe, in_width, setting, drop_path * position / total))
                in_width, setting, position = setting.width, setting._replace(stride=1), position + 1
            stages.append(nn.Sequential(*blocks))
        # One container: called apart, the stages would keep the stem's large output alive until the last is done.
        self.features = nn.Sequential(*stages, conv_norm(recipe, in_width, head_width))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(head_width, num_classes)
        self.initialise()

    def initialise(self) -> None:
        """He et al. 2015 over the fan-out (of one group); the head uniform within 1/sqrt(classes); biases zero."""
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            fan_out = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
            nn.init.normal_(conv.weight, std=math.sqrt(2.0 / fan_out))
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        bound = 1.0 / math.sqrt(self.classifier.out_features)
        nn.init.uniform_(self.classifier.weight, -bound, bound)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of a batch of images. Raises ValueError where these are not images that the stem can take."""
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected (batch, {self.in_channels}, height, width), "
                "height and width at least 1"
            )
        logits: Tensor = self.classifier(self.dropout(torch.flatten(self.pool(self.features(x)), 1)))
        return logits


def check_arguments(
    width: float, depth: float, num_classes: int, in_channels: int, dropout: float, drop_path: float
) -> None:
    """Raise ValueError naming the value and what is allowed."""
    for name, value in (("width", width), ("depth", depth)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value}: the multiplier must be a finite number above 0")
    for name, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    for name, rate in (("dropout", dropout), ("drop_path", drop_path)):
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"{name}={rate}: the rate must lie in [0, 1)")


def scaled(index: int, num_classes: int, in_channels: int, dropout: float, drop_path: float) -> EfficientNet:
    """B0 to B7 by index. From B5 on BatchNorm averages slower and divides more carefully (eps 1e-3, momentum 0.01)."""
    width, depth, _ = COEFFICIENTS[index]
    return EfficientNet(
        width,
        depth,
        recipe=Recipe(norm_eps=1e-3, norm_momentum=0.01) if index >= 5 else Recipe(),
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        drop_path=drop_path,
    )


def efficientnet_b0(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-B0: 5,288,548 parameters, for images of 224 px."""
    return scaled(0, num_classes, in_channels, dropout, drop_path)


def efficientnet_b1(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-B1: 7,794,184 parameters, for images of 240 px."""
    return scaled(1, num_classes, in_channels, dropout, drop_path)


def efficientnet_b2(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.3, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-B2: 9,109,994 parameters, for images of 260 px."""
    return scaled(2, num_classes, in_channels, dropout, drop_path)


def efficientnet_b3(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.3, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-B3: 12,233,232 parameters, for images of 300 px."""
    return scaled(3, num_classes, in_channels, dropout, drop_path)


def efficientnet_b4(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.4, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-B4: 19,341,616 parameters, for images of 380 px."""
    return scaled(4, num_classes, in_channels, dropout, drop_path)


def efficientnet_b5(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.4, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-B5: 30,389,784 parameters, for images of 456 px."""
    return scaled(5, num_classes, in_channels, dropout, drop_path)


def efficientnet_b6(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-B6: 43,040,704 parameters, for images of 528 px."""
    return scaled(6, num_classes, in_channels, dropout, drop_path)


def efficientnet_b7(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-B7: 66,347,960 parameters, for images of 600 px."""
    return scaled(7, num_classes, in_channels, dropout, drop_path)


def efficientnet_lite0(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2, drop_path: float = 0.2
) -> EfficientNet:
    """EfficientNet-Lite0: 4,652,008 parameters, for images of 224 px normalised to mean 0.5 and deviation 0.5."""
    return EfficientNet(
        recipe=Recipe(activation=nn.ReLU6, squeeze=False, same_padding=True, norm_eps=1e-3),
        fixed_ends=True,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        drop_path=drop_path,
    )
