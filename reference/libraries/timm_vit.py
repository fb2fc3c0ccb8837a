"""timm's Vision Transformers."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import VisionTransformer
from torch import nn

from reference.libraries.reference import Reference

NAMES = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
}


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """``timm.create_model`` of the same architecture without pretrained weights; ``vit_tiny_8`` with timm's class.

    ``dropout`` acts where the published code has it: on the embedded tokens, after the attention's projection and in
    the perceptron (timm's own ``drop_rate`` would act before the head instead).
    """
    keywords: dict[str, Any] = {
        "num_classes": num_classes,
        "in_chans": in_channels,
        "pos_drop_rate": dropout or 0.0,
        "proj_drop_rate": dropout or 0.0,
        "drop_path_rate": drop_path or 0.0,
    }
    model: nn.Module
    if name == "vit_tiny_8":
        model = VisionTransformer(
            img_size=image_size or 32, patch_size=8, embed_dim=64, depth=4, num_heads=4, **keywords
        )
    else:
        model = timm.create_model(NAMES[name], pretrained=False, img_size=image_size or 224, **keywords)
    return model


REFERENCE = Reference(library="timm", version=timm.__version__, build=build)
