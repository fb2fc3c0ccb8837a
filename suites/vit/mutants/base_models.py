"""A small correct Vision Transformer, with facts and references of its own size."""

from __future__ import annotations

from dataclasses import replace

from harness.mutants.variant import BaseModel
from suites.vit import architectures as vit
from suites.vit.model import VisionTransformer, vit_tiny_8


def vit_short_8(num_classes: int = 1000, in_channels: int = 3, image_size: int = 32) -> VisionTransformer:
    """Four layers of width 64 on patches of 8 px: the suite's own small instance."""
    return vit_tiny_8(num_classes, in_channels, image_size)


VIT = BaseModel(
    family=replace(vit.FAMILY, architectures=(vit.VIT_TINY_8,)), architecture=vit.VIT_TINY_8, factory=vit_short_8
)
