"""torchvision's ResNets."""

from __future__ import annotations

import torchvision
from torch import nn

from reference.libraries.reference import Reference

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """``torchvision.models.<name>`` without pretrained weights; sizes and rates do not apply to a ResNet."""
    if name not in NAMES:
        raise KeyError(name)
    model: nn.Module = getattr(torchvision.models, name)(num_classes=num_classes)
    if in_channels != 3:
        model.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    return model


REFERENCE = Reference(library="torchvision", version=torchvision.__version__, build=build)
