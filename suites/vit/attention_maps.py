"""Where the class token looks, and how alike the position embeddings are: for pictures in the report."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from suites.vit.model import EncoderLayer, VisionTransformer


@torch.no_grad()
def class_attention(model: VisionTransformer, images: Tensor) -> Tensor:
    """What the class token's query gives each patch in each layer, averaged over the heads.

    ``images`` is (batch, channels, side, side); the result (layers, batch, rows, columns) sums to less than one over
    the patches: the rest goes to the class token itself.
    """
    x, maps = model.embed(images), []
    for layer in model.layers:
        assert isinstance(layer, EncoderLayer)
        weights = layer.attention.weights(layer.norm1(x)).mean(dim=1)[:, 0, 1:]
        side = math.isqrt(weights.shape[-1])
        maps.append(weights.unflatten(-1, (side, side)))
        x = layer(x)
    return torch.stack(maps)


@torch.no_grad()
def position_similarity(model: VisionTransformer) -> Tensor:
    """Cosine of each patch's position embedding with every other's: (patches, patches), 1 on the diagonal."""
    rows = torch.nn.functional.normalize(model.position_embedding[0, 1:].double(), dim=-1)
    return rows @ rows.T
