"""Networks of a few thousand parameters from torchvision's and timm's own classes, for recipes to be judged on."""

from __future__ import annotations

from timm.models import resnet as timm_models
from torch import nn
from torchvision.models import vision_transformer


def torchvision_vit(num_classes: int) -> nn.Module:
    """Three encoder layers of width 16 on patches of 16 px of a 32 px image; the head is ``heads.head``."""
    model: nn.Module = vision_transformer.VisionTransformer(
        image_size=32, patch_size=16, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=num_classes
    )
    return model


def timm_resnet(num_classes: int) -> nn.Module:
    """Five basic blocks of 8 to 16 channels; two of them in the second stage; the head is ``fc``."""
    model: nn.Module = timm_models.ResNet(
        timm_models.BasicBlock, (1, 2, 1, 1), channels=(8, 8, 12, 16), stem_width=8, num_classes=num_classes
    )
    return model
