"""Vision Transformers whose tokens, patches or positions are wrong."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.operators import forward_of, method_of
from harness.mutants.variant import become, mutant, parameters_fault
from suites.vit.model import VisionTransformer
from suites.vit.mutants.base_models import VIT


class Tokens(VisionTransformer):
    """The correct embedding in parts that a variant changes."""

    def patches(self, images: Tensor) -> Tensor:
        return self.patch_embedding(images).flatten(2).transpose(1, 2)

    def token(self, images: Tensor) -> Tensor:
        return self.class_token.expand(len(images), -1, -1)


@mutant(VIT, "Patches are in column-major order", check="parity_eval")
@method_of("embed", kind=Tokens)
def column_major_patches(self: Any, images: Tensor) -> Tensor:
    patches = self.patch_embedding(images).transpose(2, 3).flatten(2).transpose(1, 2)
    return torch.cat((self.token(images), patches), 1) + self.position_embedding


@mutant(VIT, "Every second row of patches runs backwards", check="parity_eval")
@method_of("embed", kind=Tokens)
def snake_order_patches(self: Any, images: Tensor) -> Tensor:
    grid = self.patch_embedding(images).clone()
    grid[:, :, 1::2] = grid[:, :, 1::2].flip(3)
    patches = grid.flatten(2).transpose(1, 2)
    return torch.cat((self.token(images), patches), 1) + self.position_embedding


@mutant(VIT, "Patches are reshaped into tokens without a transpose", check="parity_eval")
@method_of("embed", kind=Tokens)
def patches_reshaped_without_transpose(self: Any, images: Tensor) -> Tensor:
    grid = self.patch_embedding(images)
    patches = grid.reshape(len(images), -1, grid.shape[1])
    return torch.cat((self.token(images), patches), 1) + self.position_embedding


class TokenLast(Tokens):
    """The class token behind the patches, positions as if it were in front."""

    def embed(self, images: Tensor) -> Tensor:
        return torch.cat((self.patches(images), self.token(images)), 1) + self.position_embedding

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x)))[:, -1])


@mutant(VIT, "The class token comes last, and takes the last patch's position", check="parity_eval")
def class_token_last(model: Any) -> nn.Module:
    return become(model, TokenLast)


@mutant(VIT, "The class token gets no position embedding", check="patch_order")
@method_of("embed", kind=Tokens)
def no_position_for_the_class_token(self: Any, images: Tensor) -> Tensor:
    patches = self.patches(images) + self.position_embedding[:, 1:]
    return torch.cat((self.token(images), patches), 1)


@mutant(
    VIT, "Positions are off by one: the first patch has the class token's, the last row is unused", check="parity_eval"
)
@method_of("embed", kind=Tokens)
def positions_shifted_by_one(self: Any, images: Tensor) -> Tensor:
    tokens = torch.cat((self.token(images), self.patches(images)), 1)
    first, others = self.position_embedding[:, :1], self.position_embedding[:, :-1]
    return tokens + torch.cat((first, others), 1)


@mutant(VIT, "All tokens get the first position embedding, by broadcasting", check="patch_order")
@method_of("embed", kind=Tokens)
def one_position_for_all(self: Any, images: Tensor) -> Tensor:
    tokens = torch.cat((self.token(images), self.patches(images)), 1)
    return tokens + self.position_embedding[:, :1]


@mutant(VIT, "Tokens are multiplied by the root of the width before positions are added", check="parity_eval")
@method_of("embed", kind=Tokens)
def tokens_scaled_by_the_width(self: Any, images: Tensor) -> Tensor:
    """Multiplies tokens by the root of the width, as the text Transformer does."""
    tokens = torch.cat((self.token(images), self.patches(images)), 1)
    return tokens * math.sqrt(tokens.shape[-1]) + self.position_embedding


@mutant(VIT, "Positions scale the tokens instead of being added", check="parity_eval")
@method_of("embed", kind=Tokens)
def positions_multiplied(self: Any, images: Tensor) -> Tensor:
    return torch.cat((self.token(images), self.patches(images)), 1) * (1 + self.position_embedding)


@mutant(VIT, "Positions are added a second time before the last layer", check="parity_eval")
@forward_of()
def positions_added_twice(self: Any, x: Tensor) -> Tensor:
    tokens = self.layers[:-1](self.embed(x)) + self.position_embedding
    return self.head(self.norm(self.layers[-1](tokens))[:, 0])


@parameters_fault(VIT, "Positions are fixed sines in a buffer, not learnt")
def fixed_positions(model: Any) -> nn.Module:
    _, tokens, width = model.position_embedding.shape
    angles = torch.arange(tokens)[:, None] * 10_000.0 ** (-torch.arange(width)[None] / width)
    del model.position_embedding
    model.register_buffer("position_embedding", angles.sin()[None])
    return model
