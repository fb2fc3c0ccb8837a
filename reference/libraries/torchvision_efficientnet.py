"""torchvision's EfficientNets."""

from __future__ import annotations

from functools import partial
from typing import Any

import torchvision
from torch import nn
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

from reference.libraries.reference import Reference

NAMES = tuple(f"efficientnet_b{index}" for index in range(8))


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
    norm_eps: float | None = None,
    norm_momentum: float | None = None,
    padding: str | None = None,
) -> nn.Module:
    """``torchvision.models.<name>`` without pretrained weights; it takes images of any size.

    ``norm_eps`` and ``norm_momentum`` replace BatchNorm's constants, which by default are torchvision's own
    for the variant. Padding is symmetric: KeyError for another.
    """
    if name not in NAMES or padding not in (None, "symmetric"):
        raise KeyError(name)
    keywords: dict[str, Any] = {} if dropout is None else {"dropout": dropout}
    if drop_path is not None:
        keywords["stochastic_depth_prob"] = drop_path
    model: Any = getattr(torchvision.models, name)(num_classes=num_classes, **keywords)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = module.eps if norm_eps is None else norm_eps
            module.momentum = module.momentum if norm_momentum is None else norm_momentum
    if in_channels != 3:
        widen = partial(nn.Conv2d, kernel_size=3, stride=2, padding=1, bias=False)
        model.features[0][0] = widen(in_channels, model.features[0][0].out_channels)
    built: nn.Module = model
    return built


def build_scaled(width: float, depth: float, *, num_classes: int, dropout: float, drop_path: float) -> nn.Module:
    """torchvision's EfficientNet at any multipliers of B0, with the BatchNorm constants of B5 and larger."""
    rows = (  # expansion, kernel, stride, inputs, outputs, repeats: Tan & Le 2019, Table 1
        (1, 3, 1, 32, 16, 1),
        (6, 3, 2, 16, 24, 2),
        (6, 5, 2, 24, 40, 2),
        (6, 3, 2, 40, 80, 3),
        (6, 5, 1, 80, 112, 3),
        (6, 5, 2, 112, 192, 4),
        (6, 3, 1, 192, 320, 1),
    )
    model: nn.Module = EfficientNet(
        [MBConvConfig(*row, width_mult=width, depth_mult=depth) for row in rows],
        dropout,
        drop_path,
        num_classes,
        partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
        last_channel=round(1280 * width),
    )
    return model


REFERENCE = Reference(library="torchvision", version=torchvision.__version__, build=build)
