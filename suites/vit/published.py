"""The Vision Transformer that a tutorial publishes, re-expressed, with each of its deviations as a switch.

It stacks PyTorch's `nn.TransformerEncoderLayer` with that layer's defaults. Embedding, class token, positions and sizes
are those of ViT-B/16, but the layer's defaults are those of the 2017 Transformer:

- normalisation comes after the residual sum (post-norm), where ViT normalises what enters a branch (pre-norm);
- the perceptron uses ReLU, where ViT uses GELU;
- LayerNorm has eps 1e-5, also in the final norm, where ViT's published code has 1e-6.

Parameters and multiply-adds are the same, so neither count shows any of this. Two further choices are no deviation:
taking the class token before the final norm (which acts on each token alone), and dropout 0.1 in training, which is a
setting of the recipe (the paper's Table 3 has 0.1 for ImageNet).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Listing(nn.Module):
    """The listing; its deviations are the defaults, and all three reversed make it a ViT."""

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        norm_first: bool = False,
        activation: str = "relu",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // patch_size) ** 2 + 1, width))
        self.transformer = nn.Sequential()
        for _ in range(layers):
            self.transformer.append(
                nn.TransformerEncoderLayer(
                    width,
                    heads,
                    4 * width,
                    activation=activation,
                    layer_norm_eps=norm_eps,
                    batch_first=True,
                    norm_first=norm_first,
                )
            )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, image_size, image_size) -> (batch, num_classes)."""
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1) + self.pos_embed
        logits: Tensor = self.fc(self.norm(self.transformer(tokens)[:, 0]))
        return logits


def vit_b_16(num_classes: int = 1000, image_size: int = 224) -> Listing:
    """The listing as it is published."""
    return Listing(num_classes, image_size=image_size)


def vit_tiny_8(
    num_classes: int = 1000,
    image_size: int = 32,
    *,
    norm_first: bool = True,
    activation: str = "gelu",
    norm_eps: float = 1e-6,
) -> Listing:
    """The listing with its deviations reversed, small; giving one of them back shows what it alone does."""
    return Listing(
        num_classes,
        image_size=image_size,
        patch_size=8,
        width=64,
        layers=4,
        heads=4,
        norm_first=norm_first,
        activation=activation,
        norm_eps=norm_eps,
    )
