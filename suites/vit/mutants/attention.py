"""Vision Transformers whose attention is wrong."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import forward_of, method_of, with_settings
from harness.mutants.variant import mutant, parameters_fault, replaced
from suites.vit.model import SelfAttention
from suites.vit.mutants.base_models import VIT


def joined(attention: Any, mixed: Tensor) -> Tensor:
    """(batch, heads, tokens, width of a head) -> (batch, tokens, width): the heads side by side, projected."""
    out: Tensor = attention.project(mixed.transpose(1, 2).flatten(2))
    return out


def fused(attention: Any, x: Tensor, **settings: Any) -> Tensor:
    """torch's fused attention with other settings."""
    query, key, value = attention.split(x)
    return joined(attention, F.scaled_dot_product_attention(query, key, value, **settings))


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


@mutant(VIT, "One layer has a causal mask", check="attention")
@forward_of("layers.2.attention")
def causal_mask_in_one_layer(self: Any, x: Tensor) -> Tensor:
    return fused(self, x, is_causal=True)


@mutant(VIT, "No token attends to itself", check="attention")
@method_of("attend", "layers.0.attention", Written)
def diagonal_masked(self: Any, scores: Tensor) -> Tensor:
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return Written.attend(self, scores.masked_fill(itself, -math.inf))


@mutant(VIT, "The patches do not attend to the class token", check="attention")
@forward_of("layers.1.attention")
def class_token_hidden(self: Any, x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
    mask[1:, 0] = False
    return fused(self, x, attn_mask=mask)


@mutant(VIT, "A bias on the distance of tokens is added to the scores", check="patch_order")
@method_of("scores", "layers.0.attention", Written)
def distance_bias(self: Any, query: Tensor, key: Tensor) -> Tensor:
    """Prefers near tokens, as ALiBi does."""
    place = torch.arange(query.shape[-2], dtype=query.dtype, device=query.device)
    return Written.scores(self, query, key) - 0.1 * (place[:, None] - place[None]).abs()


@mutant(VIT, "Two heads in place of four", check="attention")
def half_the_heads(model: Any) -> nn.Module:
    return with_settings(model, SelfAttention, heads=2)


@mutant(VIT, "The scores are not scaled", check="parity_eval")
@forward_of(SelfAttention)
def scores_not_scaled(self: Any, x: Tensor) -> Tensor:
    return fused(self, x, scale=1.0)


@mutant(VIT, "The scores are scaled by the model's width, not by the head's", check="parity_eval")
@method_of("scores", SelfAttention, Written)
def scores_scaled_by_the_width(self: Any, query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(-2, -1) / math.sqrt(self.heads * query.shape[-1])


@mutant(VIT, "Queries are scaled, and the fused attention scales the scores again", check="parity_eval")
@forward_of("layers.3.attention")
def scores_scaled_twice(self: Any, x: Tensor) -> Tensor:
    query, key, value = self.split(x)
    return joined(self, F.scaled_dot_product_attention(query / math.sqrt(query.shape[-1]), key, value))


@mutant(VIT, "The softmax runs over the queries", check="parity_eval")
@method_of("attend", SelfAttention, Written)
def softmax_over_the_queries(self: Any, scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-2)


@mutant(VIT, "The softmax of a layer runs over the heads", check="parity_eval")
@method_of("attend", "layers.0.attention", Written)
def softmax_over_the_heads(self: Any, scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=1)


@mutant(VIT, "A sigmoid in place of a layer's softmax", check="parity_eval")
@method_of("attend", "layers.1.attention", Written)
def sigmoid_for_softmax(self: Any, scores: Tensor) -> Tensor:
    return torch.sigmoid(scores)


@mutant(VIT, "Rows of attention sum to less than one (softmax with one added below)", check="parity_eval")
@method_of("attend", "layers.1.attention", Written)
def rows_below_one(self: Any, scores: Tensor) -> Tensor:
    exponentials = scores.exp()
    return exponentials / (1 + exponentials.sum(-1, keepdim=True))


@mutant(VIT, "The heads are joined by a reshape without the transpose", check="parity_eval")
@method_of("merge", SelfAttention, Written)
def heads_joined_without_transpose(self: Any, mixed: Tensor, shape: torch.Size) -> Tensor:
    return mixed.reshape(shape)


@mutant(VIT, "Keys serve as values", check="parity_eval")
@forward_of("layers.2.attention")
def keys_for_values(self: Any, x: Tensor) -> Tensor:
    query, key, _ = self.split(x)
    return joined(self, F.scaled_dot_product_attention(query, key, key))


@parameters_fault(VIT, "The attention's output projection has no bias")
def projection_without_bias(model: Any) -> nn.Module:
    return replaced(model, "layers.0.attention.project", nn.Linear(64, 64, bias=False))


@parameters_fault(VIT, "Queries, keys and values have no bias")
def qkv_without_bias(model: Any) -> nn.Module:
    for index in range(4):
        replaced(model, f"layers.{index}.attention.qkv", nn.Linear(64, 192, bias=False))
    return model


@parameters_fault(VIT, "A layer's attention has no output projection")
def no_output_projection(model: Any) -> nn.Module:
    return replaced(model, "layers.3.attention.project", nn.Identity())


@mutant(VIT, "Queries and keys are normalised, without parameters", check="parity_eval")
@method_of("scores", "layers.0.attention", Written)
def queries_normalised(self: Any, query: Tensor, key: Tensor) -> Tensor:
    """Cosine attention."""
    return Written.scores(self, F.normalize(query, dim=-1), F.normalize(key, dim=-1))
