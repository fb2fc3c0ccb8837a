"""torchvision's Vision Transformers."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn
from torchvision.models import VisionTransformer

from reference.libraries.reference import Reference

NAMES = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """``torchvision.models.<name>`` without pretrained weights.

    ``vit_tiny_8`` is made with torchvision's class. Raises ValueError for a ``drop_path``: torchvision's has none.
    """
    if drop_path:
        raise ValueError(f"drop_path={drop_path}: torchvision's ViT has no stochastic depth")
    rate = 0.0 if dropout is None else dropout
    model: Any  # torchvision has no annotations
    if name == "vit_tiny_8":
        model = VisionTransformer(
            image_size=image_size or 32,
            patch_size=8,
            num_layers=4,
            num_heads=4,
            hidden_dim=64,
            mlp_dim=256,
            dropout=rate,
            num_classes=num_classes,
        )
    elif name in NAMES:
        builder = getattr(torchvision.models, name)
        model = builder(num_classes=num_classes, image_size=image_size or 224, dropout=rate)
    else:
        raise KeyError(name)
    if in_channels != 3:
        patch = model.patch_size
        model.conv_proj = nn.Conv2d(in_channels, model.hidden_dim, kernel_size=patch, stride=patch)
    built: nn.Module = model
    return built


REFERENCE = Reference(library="torchvision", version=torchvision.__version__, build=build)
