"""efficientnet-pytorch's B0."""

from __future__ import annotations

from efficientnet_pytorch import EfficientNet
from torch import nn


def efficientnet_b0(num_classes: int = 1000) -> nn.Module:
    """``EfficientNet.from_name``, without pretrained weights."""
    model: nn.Module = EfficientNet.from_name("efficientnet-b0", num_classes=num_classes)
    return model
