"""timm's ResNets."""

from __future__ import annotations

import timm
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
    """``timm.create_model(name)`` without pretrained weights; sizes and rates do not apply to a ResNet."""
    if name not in NAMES:
        raise KeyError(name)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    return model


REFERENCE = Reference(library="timm", version=timm.__version__, build=build)
