"""Vision Transformers whose attention is wrong."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.probe import parameters
from harness.mutants.variant import become, mutant, of_type, replaced
from suites.vit.model import SelfAttention
from suites.vit.mutants.base_models import VIT


class Written(SelfAttention):
    """Attention written out, in parts that a variant changes."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])

    def attend(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores, dim=-1)

    def merge(self, mixed: Tensor, shape: torch.Size) -> Tensor:
        return mixed.transpose(1, 2).reshape(shape)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.split(x)
        return self.project(self.merge(self.attend(self.scores(query, key)) @ value, x.shape))


class Causal(SelfAttention):
    """Tokens attend to earlier ones."""

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(*self.split(x), is_causal=True)
        return self.project(mixed.transpose(1, 2).reshape(x.shape))


@mutant(VIT, "One layer has a causal mask", check="attention")
def causal_mask_in_one_layer(model: Any) -> nn.Module:
    become(model.layers[2].attention, Causal)
    return model


class NoDiagonal(Written):
    """Nothing attends to itself."""

    def attend(self, scores: Tensor) -> Tensor:
        itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        return super().attend(scores.masked_fill(itself, -math.inf))


@mutant(VIT, "No token attends to itself", check="attention")
def diagonal_masked(model: Any) -> nn.Module:
    become(model.layers[0].attention, NoDiagonal)
    return model


class TokenHidden(SelfAttention):
    """Patches do not see the class token."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        mask[1:, 0] = False
        mixed = F.scaled_dot_product_attention(*self.split(x), attn_mask=mask)
        return self.project(mixed.transpose(1, 2).reshape(x.shape))


@mutant(VIT, "The patches do not attend to the class token", check="attention")
def class_token_hidden(model: Any) -> nn.Module:
    become(model.layers[1].attention, TokenHidden)
    return model


class Distant(Written):
    """Prefers near tokens, as ALiBi does."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        place = torch.arange(query.shape[-2], dtype=query.dtype, device=query.device)
        return super().scores(query, key) - 0.1 * (place[:, None] - place[None]).abs()


@mutant(VIT, "A bias on the distance of tokens is added to the scores", check="patch_order")
def distance_bias(model: Any) -> nn.Module:
    become(model.layers[0].attention, Distant)
    return model


@mutant(VIT, "Two heads in place of four", check="attention")
def half_the_heads(model: Any) -> nn.Module:
    for _, attention in of_type(model, SelfAttention):
        attention.heads = 2
    return model


class Unscaled(SelfAttention):
    """Scores as they are."""

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(*self.split(x), scale=1.0)
        return self.project(mixed.transpose(1, 2).reshape(x.shape))


@mutant(VIT, "The scores are not scaled", check="parity_eval")
def scores_not_scaled(model: Any) -> nn.Module:
    for _, attention in of_type(model, SelfAttention):
        become(attention, Unscaled)
    return model


class ScaledByWidth(Written):
    """Divides by the root of the whole width."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.transpose(-2, -1) / math.sqrt(self.heads * query.shape[-1])


@mutant(VIT, "The scores are scaled by the model's width, not by the head's", check="parity_eval")
def scores_scaled_by_the_width(model: Any) -> nn.Module:
    for _, attention in of_type(model, SelfAttention):
        become(attention, ScaledByWidth)
    return model


class ScaledTwice(SelfAttention):
    """Scales the queries, and then scaled_dot_product_attention scales again."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.split(x)
        mixed = F.scaled_dot_product_attention(query / math.sqrt(query.shape[-1]), key, value)
        return self.project(mixed.transpose(1, 2).reshape(x.shape))


@mutant(VIT, "Queries are scaled, and the fused attention scales the scores again", check="parity_eval")
def scores_scaled_twice(model: Any) -> nn.Module:
    become(model.layers[3].attention, ScaledTwice)
    return model


class WrongAxis(Written):
    """Normalises over the queries."""

    def attend(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores, dim=-2)


@mutant(VIT, "The softmax runs over the queries", check="parity_eval")
def softmax_over_the_queries(model: Any) -> nn.Module:
    for _, attention in of_type(model, SelfAttention):
        become(attention, WrongAxis)
    return model


class OverHeads(Written):
    """Normalises over the heads."""

    def attend(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores, dim=1)


@mutant(VIT, "The softmax of a layer runs over the heads", check="parity_eval")
def softmax_over_the_heads(model: Any) -> nn.Module:
    become(model.layers[0].attention, OverHeads)
    return model


class SigmoidAttention(Written):
    """Every score by itself."""

    def attend(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(scores)


@mutant(VIT, "A sigmoid in place of a layer's softmax", check="parity_eval")
def sigmoid_for_softmax(model: Any) -> nn.Module:
    become(model.layers[1].attention, SigmoidAttention)
    return model


class OneTooMany(Written):
    """One is added to the softmax's denominator."""

    def attend(self, scores: Tensor) -> Tensor:
        exponentials = scores.exp()
        return exponentials / (1 + exponentials.sum(-1, keepdim=True))


@mutant(VIT, "Rows of attention sum to less than one (softmax with one added below)", check="parity_eval")
def rows_below_one(model: Any) -> nn.Module:
    become(model.layers[1].attention, OneTooMany)
    return model


class Jumbled(Written):
    """Joins the heads without bringing them together first."""

    def merge(self, mixed: Tensor, shape: torch.Size) -> Tensor:
        return mixed.reshape(shape)


@mutant(VIT, "The heads are joined by a reshape without the transpose", check="parity_eval")
def heads_joined_without_transpose(model: Any) -> nn.Module:
    for _, attention in of_type(model, SelfAttention):
        become(attention, Jumbled)
    return model


class ValuesAreKeys(SelfAttention):
    """The values' projection is not used."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, _ = self.split(x)
        mixed = F.scaled_dot_product_attention(query, key, key)
        return self.project(mixed.transpose(1, 2).reshape(x.shape))


@mutant(VIT, "Keys serve as values", check="parity_eval")
def keys_for_values(model: Any) -> nn.Module:
    become(model.layers[2].attention, ValuesAreKeys)
    return model


@mutant(VIT, "The attention's output projection has no bias", check="parameters", evidence=parameters)
def projection_without_bias(model: Any) -> nn.Module:
    return replaced(model, "layers.0.attention.project", nn.Linear(64, 64, bias=False))


@mutant(VIT, "Queries, keys and values have no bias", check="parameters", evidence=parameters)
def qkv_without_bias(model: Any) -> nn.Module:
    for index in range(4):
        replaced(model, f"layers.{index}.attention.qkv", nn.Linear(64, 192, bias=False))
    return model


@mutant(VIT, "A layer's attention has no output projection", check="parameters", evidence=parameters)
def no_output_projection(model: Any) -> nn.Module:
    return replaced(model, "layers.3.attention.project", nn.Identity())


class NormalisedQueries(Written):
    """Cosine attention."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(F.normalize(query, dim=-1), F.normalize(key, dim=-1))


@mutant(VIT, "Queries and keys are normalised, without parameters", check="parity_eval")
def queries_normalised(model: Any) -> nn.Module:
    become(model.layers[0].attention, NormalisedQueries)
    return model
