"""ResNets with one or two blocks in each stage, from torchvision's and timm's own classes.

The libraries publish none this small. They let every check run on a faulty variant within seconds.
"""

from __future__ import annotations

import timm
import torchvision
from timm.models import resnet as timm_resnet
from torch import nn
from torchvision.models import resnet as torchvision_resnet

from reference.library import Reference

DEPTHS = (2, 1, 1, 1)
BASIC, BOTTLENECK = "resnet12", "resnet17"


def build_torchvision(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """torchvision's ``ResNet`` with `DEPTHS` blocks: ``resnet12`` of basic blocks, ``resnet17`` of bottlenecks."""
    blocks = {BASIC: torchvision_resnet.BasicBlock, BOTTLENECK: torchvision_resnet.Bottleneck}
    model: nn.Module = torchvision_resnet.ResNet(blocks[name], list(DEPTHS), num_classes=num_classes)
    if in_channels != 3:
        model.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    return model


def build_timm(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """timm's ``ResNet`` of the same sizes."""
    blocks = {BASIC: timm_resnet.BasicBlock, BOTTLENECK: timm_resnet.Bottleneck}
    model: nn.Module = timm_resnet.ResNet(blocks[name], DEPTHS, num_classes=num_classes, in_chans=in_channels)
    return model


REFERENCES = (
    Reference(library="torchvision", version=torchvision.__version__, build=build_torchvision),
    Reference(library="timm", version=timm.__version__, build=build_timm),
)
