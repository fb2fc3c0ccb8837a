"""Small networks of the libraries' own classes, for tests and faulty variants."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torchvision
from timm.models import efficientnet as timm_efficientnet
from timm.models import resnet as timm_resnet
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import nn
from torchvision.models import resnet as torchvision_resnet
from torchvision.models import vision_transformer
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

from reference.libraries.reference import Reference

WIDTH, DEPTH = 0.25, 0.5
STAGES = (  # expansion, kernel, stride, width, repeats: Tan & Le 2019, Table 1
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM_WIDTH, HEAD_WIDTH = 32, 1280
RATE = 0.2
"""Published for B0, of dropout and of stochastic depth."""


def build_torchvision_efficientnet(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """torchvision's ``EfficientNet`` with `WIDTH` and `DEPTH` as multipliers."""
    settings = []
    in_width = STEM_WIDTH
    for expansion, kernel, stride, width, repeats in STAGES:
        sizes = (expansion, kernel, stride, in_width, width, repeats)
        settings.append(MBConvConfig(*sizes, width_mult=WIDTH, depth_mult=DEPTH))
        in_width = width
    model: Any = EfficientNet(
        settings,
        RATE if dropout is None else dropout,
        RATE if drop_path is None else drop_path,
        num_classes,
        last_channel=int(HEAD_WIDTH * WIDTH),
    )
    if in_channels != 3:
        stem = model.features[0]
        stem[0] = nn.Conv2d(in_channels, stem[0].out_channels, 3, stride=2, padding=1, bias=False)
    built: nn.Module = model
    return built


def build_timm_efficientnet(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """timm's ``EfficientNet`` of the same sizes."""
    round_width = partial(round_channels, multiplier=WIDTH)
    blocks = [
        [f"{'ir' if expansion > 1 else 'ds'}_r{repeats}_k{kernel}_s{stride}_e{expansion}_c{width}_se0.25"]
        for expansion, kernel, stride, width, repeats in STAGES
    ]
    model: nn.Module = timm_efficientnet.EfficientNet(
        decode_arch_def(blocks, DEPTH),  # type: ignore[no-untyped-call]
        num_features=round_width(HEAD_WIDTH),
        stem_size=STEM_WIDTH,
        round_chs_fn=round_width,
        act_layer=nn.SiLU,
        norm_layer=nn.BatchNorm2d,
        num_classes=num_classes,
        in_chans=in_channels,
        drop_rate=RATE if dropout is None else dropout,
        drop_path_rate=RATE if drop_path is None else drop_path,
    )
    return model


EFFICIENTNET_REFERENCES = (
    Reference(library="torchvision", version=torchvision.__version__, build=build_torchvision_efficientnet),
    Reference(library="timm", version=timm.__version__, build=build_timm_efficientnet),
)


DEPTHS = (2, 1, 1, 1)
BASIC, BOTTLENECK = "resnet12", "resnet17"


def build_torchvision_resnet(
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


def build_timm_resnet(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """timm's ``ResNet`` of the same sizes."""
    blocks: dict[str, Any] = {BASIC: timm_resnet.BasicBlock, BOTTLENECK: timm_resnet.Bottleneck}
    model: nn.Module = timm_resnet.ResNet(blocks[name], DEPTHS, num_classes=num_classes, in_chans=in_channels)
    return model


RESNET_REFERENCES = (
    Reference(library="torchvision", version=torchvision.__version__, build=build_torchvision_resnet),
    Reference(library="timm", version=timm.__version__, build=build_timm_resnet),
)


def torchvision_vit_backbone(num_classes: int) -> nn.Module:
    """Three encoder layers of width 16 on patches of 16 px of a 32 px image; the head is ``heads.head``."""
    model: nn.Module = vision_transformer.VisionTransformer(
        image_size=32, patch_size=16, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=num_classes
    )
    return model


def timm_resnet_backbone(num_classes: int) -> nn.Module:
    """Five basic blocks of 8 to 16 channels; two of them in the second stage; the head is ``fc``."""
    block: Any = timm_resnet.BasicBlock  # timm asks for an instance, and means the class
    model: nn.Module = timm_resnet.ResNet(
        block, (1, 2, 1, 1), channels=(8, 8, 12, 16), stem_width=8, num_classes=num_classes
    )
    return model
