"""ResNet-18, 34, 50, 101 and 152 (He et al. 2015, "Deep Residual Learning for Image Recognition", Table 1).

The bottleneck strides in its 3x3 convolution ("v1.5"), as torchvision's and timm's do; the paper's strides in the first
1x1. Otherwise this is the paper's network: projection shortcuts where the shape changes (option B), He initialisation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first one strides."""

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = projection(in_width, width, stride)

    def forward(self, x: Float[Tensor, "batch in_width height width"]) -> Float[Tensor, "batch width h w"]:
        """Residual branch plus shortcut, then ReLU."""
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += self.shortcut(x)
        activated: Tensor = self.relu(out)
        return activated


class Bottleneck(nn.Module):
    """1x1 down, 3x3 (which strides), 1x1 up to four times the width."""

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(width * 4)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = projection(in_width, width * 4, stride)

    def forward(self, x: Float[Tensor, "batch in_width height width"]) -> Float[Tensor, "batch 4*width h w"]:
        """Residual branch plus shortcut, then ReLU."""
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        out += self.shortcut(x)
        activated: Tensor = self.relu(out)
        return activated


def projection(in_width: int, out_width: int, stride: int) -> nn.Module:
    """The identity where the shape stays, else a strided 1x1 convolution with its norm."""
    if stride == 1 and in_width == out_width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_width, out_width, 1, stride, bias=False), nn.BatchNorm2d(out_width))


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, global average pooling and a linear head.

    ``zero_init_residual`` starts the last norm of each residual branch at zero, so that every block is the identity
    at first (Goyal et al. 2017, section 5.1).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"num_classes={num_classes}, in_channels={in_channels}: both must be at least 1")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        in_width = 64
        for index, depth in enumerate(depths):
            width = 64 * 2**index
            blocks: list[nn.Module] = []
            for position in range(depth):
                blocks.append(block(in_width, width, stride=2 if index > 0 and position == 0 else 1))
                in_width = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(in_width, num_classes)
        self.initialise(zero_init_residual)

    def initialise(self, zero_init_residual: bool) -> None:
        """He et al. 2015b, eq. 10, over the fan-out; norms start as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock):
                nn.init.zeros_(module.norm2.weight)
            elif zero_init_residual and isinstance(module, Bottleneck):
                nn.init.zeros_(module.norm3.weight)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of a batch of images."""
        x = self.stem(x)
        for stage in self.stages:  # one by one, so that the stem's output is freed as soon as it is used
            x = stage(x)
        logits: Tensor = self.head(torch.flatten(self.pool(x), 1))
        return logits


def resnet18(num_classes: int = 1000, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """ResNet-18: 11,689,512 parameters."""
    return ResNet(
        BasicBlock,
        (2, 2, 2, 2),
        num_classes=num_classes,
        in_channels=in_channels,
        zero_init_residual=zero_init_residual,
    )


def resnet34(num_classes: int = 1000, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """ResNet-34: 21,797,672 parameters."""
    return ResNet(
        BasicBlock,
        (3, 4, 6, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        zero_init_residual=zero_init_residual,
    )


def resnet50(num_classes: int = 1000, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """ResNet-50: 25,557,032 parameters."""
    return ResNet(
        Bottleneck,
        (3, 4, 6, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        zero_init_residual=zero_init_residual,
    )


def resnet101(num_classes: int = 1000, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """ResNet-101: 44,549,160 parameters."""
    return ResNet(
        Bottleneck,
        (3, 4, 23, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        zero_init_residual=zero_init_residual,
    )


def resnet152(num_classes: int = 1000, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """ResNet-152: 60,192,808 parameters."""
    return ResNet(
        Bottleneck,
        (3, 8, 36, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        zero_init_residual=zero_init_residual,
    )
