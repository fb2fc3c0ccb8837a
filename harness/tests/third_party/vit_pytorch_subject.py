"""vit-pytorch's ViT in the size of ViT-B/16."""

from __future__ import annotations

from torch import nn
from vit_pytorch import ViT


def vit_b_16(num_classes: int = 1000, image_size: int = 224) -> nn.Module:
    """``vit_pytorch.ViT`` with the widths and depth of ViT-B."""
    model: nn.Module = ViT(
        image_size=image_size, patch_size=16, num_classes=num_classes, dim=768, depth=12, heads=12, mlp_dim=3072
    )
    return model
