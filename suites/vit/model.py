"""Vision Transformer (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", Table 1), after its published code.

An image becomes a row-major sequence of patches, a learnt class token goes in front, learnt position embeddings are
added, and pre-norm encoder layers follow. The logits are read from the class token. LayerNorm has eps 1e-6 and GELU is
the exact one, as in the authors' code and in torchvision's and timm's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NORM_EPS = 1e-6


class SelfAttention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one fused projection, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def split(self, x: Float[Tensor, "batch tokens width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, heads, tokens, width / heads)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def weights(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch heads tokens tokens"]:
        """How much each token (row) attends to each other, for inspection; `forward` never forms this matrix."""
        query, key, _ = self.split(x)
        return torch.softmax(query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]), dim=-1)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Every token attends to every token."""
        mixed = F.scaled_dot_product_attention(*self.split(x))
        projected: Tensor = self.project(mixed.transpose(1, 2).reshape(x.shape))
        return projected


class EncoderLayer(nn.Module):
    """Norm, attention, add; norm, two-layer perceptron, add."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = SelfAttention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Two residual branches."""
        mixed = x + self.dropout(self.attention(self.norm1(x)))
        out: Tensor = mixed + self.mlp(self.norm2(mixed))
        return out


class VisionTransformer(nn.Module):
    """Patch embedding, class token, position embeddings, encoder layers, final norm and a linear head.

    ``image_size`` is fixed at construction: the position embedding has one row per patch. To use weights that were
    trained at another size, pass them through `resize_position_embedding` before loading. ``dropout`` acts on the
    embedded tokens, after the attention's projection and in the perceptron, in training. Raises ValueError for an
    image size that is no multiple of the patch, a width that the heads do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        *,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        mlp_width: int,
        image_size: int = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        counts = {"num_classes": num_classes, "in_channels": in_channels, "layers": layers, "mlp_width": mlp_width}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count}: must be at least 1")
        if patch_size < 1 or image_size < patch_size or image_size % patch_size:
            raise ValueError(f"image_size={image_size}: must be a positive multiple of patch_size={patch_size}")
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(f"width={width}: must be a positive multiple of heads={heads}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout={dropout}: the rate must lie in [0, 1)")
        self.image_size = image_size
        self.in_channels = in_channels
        self.patch_embedding = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + (image_size // patch_size) ** 2, width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, mlp_width, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, num_classes)
        self.initialise()

    def initialise(self) -> None:
        """Glorot for the encoder's matrices, LeCun for the patches, deviation 0.02 for positions and the head."""
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        fan_in = self.patch_embedding.weight[0].numel()
        nn.init.trunc_normal_(self.patch_embedding.weight, std=math.sqrt(1.0 / fan_in))
        assert self.patch_embedding.bias is not None
        nn.init.zeros_(self.patch_embedding.bias)
        nn.init.normal_(self.position_embedding, std=0.02)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def embed(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens width"]:
        """The class token, then the patches row by row, each with its position added."""
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(len(images), -1, -1), patches), dim=1)
        embedded: Tensor = self.dropout(tokens + self.position_embedding)
        return embedded

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of a batch of images. Raises ValueError for images of another size or channel count."""
        expected = (self.in_channels, self.image_size, self.image_size)
        if x.dim() != 4 or x.shape[1:] != expected:
            raise ValueError(f"input of shape {tuple(x.shape)}: expected (batch, {', '.join(map(str, expected))})")
        logits: Tensor = self.head(self.norm(self.layers(self.embed(x)))[:, 0])
        return logits


def resize_position_embedding(state: Mapping[str, Tensor], image_size: int, patch_size: int) -> dict[str, Tensor]:
    """A copy of ``state`` whose position embedding fits another (square) image size; other entries are as they were.

    The class token's row stays; the patches' rows are resampled on their grid (bicubic, antialiased), as the paper does
    for fine-tuning at higher resolution (section 3.2). Raises ValueError where the state's grid is not square.
    """
    key = "position_embedding"
    if key not in state:
        raise ValueError(f"no {key!r} in the weights; they have {', '.join(sorted(state)[:5])}, ...")
    if image_size < patch_size or image_size % patch_size:
        raise ValueError(f"image_size={image_size}: must be a positive multiple of patch_size={patch_size}")
    embedding = state[key]
    old, new = math.isqrt(max(embedding.shape[1] - 1, 0)), image_size // patch_size
    if old < 1 or old**2 != embedding.shape[1] - 1:
        raise ValueError(f"{key} of shape {tuple(embedding.shape)}: expected (1, 1 + side**2, width)")
    if old == new:
        return dict(state)
    first, patches = embedding[:, :1], embedding[:, 1:]
    grid = patches.transpose(1, 2).reshape(1, -1, old, old)  # (1, width, row, column)
    grid = F.interpolate(grid.float(), size=(new, new), mode="bicubic", antialias=True).to(embedding.dtype)
    return {**state, key: torch.cat((first, grid.flatten(2).transpose(1, 2)), dim=1)}


def vit_b_16(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, dropout: float = 0.0
) -> VisionTransformer:
    """ViT-B/16: 86,567,656 parameters."""
    return VisionTransformer(
        patch_size=16,
        width=768,
        layers=12,
        heads=12,
        mlp_width=3072,
        image_size=image_size,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
    )


def vit_b_32(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, dropout: float = 0.0
) -> VisionTransformer:
    """ViT-B/32: 88,224,232 parameters."""
    return VisionTransformer(
        patch_size=32,
        width=768,
        layers=12,
        heads=12,
        mlp_width=3072,
        image_size=image_size,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
    )


def vit_l_16(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, dropout: float = 0.0
) -> VisionTransformer:
    """ViT-L/16: 304,326,632 parameters."""
    return VisionTransformer(
        patch_size=16,
        width=1024,
        layers=24,
        heads=16,
        mlp_width=4096,
        image_size=image_size,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
    )


def vit_l_32(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, dropout: float = 0.0
) -> VisionTransformer:
    """ViT-L/32: 306,535,400 parameters."""
    return VisionTransformer(
        patch_size=32,
        width=1024,
        layers=24,
        heads=16,
        mlp_width=4096,
        image_size=image_size,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
    )


def vit_h_14(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, dropout: float = 0.0
) -> VisionTransformer:
    """ViT-H/14: 632,045,800 parameters."""
    return VisionTransformer(
        patch_size=14,
        width=1280,
        layers=32,
        heads=16,
        mlp_width=5120,
        image_size=image_size,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
    )


def vit_tiny_8(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 32, dropout: float = 0.0
) -> VisionTransformer:
    """A small instance for tests: four layers of width 64 on images of 32 px; not a published size."""
    return VisionTransformer(
        patch_size=8,
        width=64,
        layers=4,
        heads=4,
        mlp_width=256,
        image_size=image_size,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
    )
