"""Correct Vision Transformers, written differently."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import forward_of, method_of
from harness.mutants.variant import become, correct, of_type, replaced
from suites.vit.model import EncoderLayer, SelfAttention, VisionTransformer
from suites.vit.mutants.base_models import VIT

WIDTH, HEADS, LAYERS = 64, 4, 4


def _attentions(model: nn.Module, make: Any) -> nn.Module:
    for name, _ in of_type(model, SelfAttention):
        replaced(model, name, make())
    return model


class EinsumAttention(nn.Module):
    """Separate projections, einsum throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (HEADS, -1)) for p in (self.to_q, self.to_k, self.to_v))
        weights = (torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(WIDTH // HEADS)).softmax(-1)
        return self.to_out(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


@correct(VIT, "attention with three projections and einsum")
def einsum_attention(model: Any) -> nn.Module:
    return _attentions(model, EinsumAttention)


class HeadByHead(nn.Module):
    """Each head has layers of its own; their outputs are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.ModuleList(nn.Linear(WIDTH, WIDTH // HEADS) for _ in "qkv") for _ in range(HEADS))
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for head in self.heads:
            q, k, v = (part(x) for part in head.children())
            out.append(torch.softmax(q @ k.mT * (WIDTH // HEADS) ** -0.5, -1) @ v)
        return self.mix(torch.cat(out, -1))


@correct(VIT, "each head has its own three linear layers")
def weights_per_head(model: Any) -> nn.Module:
    return _attentions(model, HeadByHead)


@correct(VIT, "the fused projection is ordered by head, then by query, key and value")
@method_of("split", SelfAttention)
def head_major_projection(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, _ = x.shape
    qkv = self.qkv(x).view(batch, tokens, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
    return qkv[0], qkv[1], qkv[2]


class LibraryAttention(nn.Module):
    """torch's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


@correct(VIT, "attention is nn.MultiheadAttention")
def library_attention(model: Any) -> nn.Module:
    return _attentions(model, LibraryAttention)


@correct(VIT, "the softmax is computed in float32, for safety under half precision")
@forward_of(SelfAttention)
def float32_softmax(self: Any, x: Tensor) -> Tensor:
    query, key, value = self.split(x)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    weights = torch.softmax(scores.float(), dim=-1).to(value.dtype)
    return self.project((weights @ value).transpose(1, 2).flatten(2))


class HandwrittenNorm(nn.Module):
    """LayerNorm from its definition."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(WIDTH))
        self.b = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return self.a * (x - mean) / (variance + 1e-6).sqrt() + self.b


@correct(VIT, "every LayerNorm is written by hand")
def handwritten_norms(model: Any) -> nn.Module:
    for name, _ in of_type(model, nn.LayerNorm):
        replaced(model, name, HandwrittenNorm())
    return model


class LinearPatches(nn.Module):
    """Cuts the image by reshapes; each patch is one vector for a linear layer."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        (self.side, _) = conv.kernel_size
        self.linear = nn.Linear(conv.in_channels * self.side**2, WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        rows, columns = height // self.side, width // self.side
        cut = images.reshape(batch, channels, rows, self.side, columns, self.side)
        return self.linear(cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))


class LinearEmbedded(VisionTransformer):
    """Patches come as tokens already."""

    def embed(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images)
        tokens = torch.cat((self.class_token.expand(len(images), -1, -1), patches), 1)
        return tokens + self.position_embedding


@correct(VIT, "the patch embedding is a reshape and a linear layer, channels last in each patch")
def linear_patch_embedding(model: Any) -> nn.Module:
    become(model, LinearEmbedded)
    return replaced(model, "patch_embedding", LinearPatches(model.patch_embedding))


@correct(VIT, "positions are added apart, and the final norm sees the class token only")
@forward_of()
def positions_apart(self: Any, x: Tensor) -> Tensor:
    """Positions are added to class token and patches apart; only the class token is normalised at the end."""
    patches = self.patch_embedding(x).flatten(2).transpose(1, 2) + self.position_embedding[:, 1:]
    first = (self.class_token + self.position_embedding[:, :1]).expand(len(x), -1, -1)
    return self.head(self.norm(self.layers(torch.cat((first, patches), 1))[:, 0]))


class LibraryEncoder(nn.Module):
    """torch's own encoder, set up as a ViT's."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.stem = model.patch_embedding
        self.cls = nn.Parameter(torch.zeros(WIDTH))
        self.pos = nn.Parameter(torch.zeros(model.position_embedding.shape[1:]).normal_(std=0.02))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, 0.0, F.gelu, layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, norm, enable_nested_tensor=False)
        for parameter in self.encoder.parameters():  # the layers start as copies of one
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.out = model.head

    def forward(self, x: Tensor) -> Tensor:
        patches = self.stem(x).flatten(2).mT
        tokens = torch.cat((self.cls.expand(len(x), 1, -1), patches), 1)
        return self.out(self.encoder(tokens + self.pos)[:, 0])


@correct(VIT, "nn.TransformerEncoder with norm_first, GELU and eps 1e-6")
def library_encoder(model: Any) -> nn.Module:
    return LibraryEncoder(model)


@correct(VIT, "GELU is written with the error function, additions are in place")
@forward_of(EncoderLayer)
def gelu_by_the_error_function(self: Any, x: Tensor) -> Tensor:
    x = self.attention(self.norm1(x)) + x
    hidden = self.mlp[0](self.norm2(x))
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    out = self.mlp[3](hidden)
    out += x
    return out


@correct(VIT, "forward returns the logits and the tokens in a tuple")
@forward_of()
def returns_a_tuple(self: Any, x: Tensor) -> Any:
    tokens = self.norm(self.layers(self.embed(x)))
    return self.head(tokens[:, 0]), tokens


@correct(VIT, "biases are added after the residual sum: (x + W y) + b")
@forward_of(EncoderLayer)
def biases_after_the_sum(self: Any, x: Tensor) -> Tensor:
    """The biases of the two projections are added after the residual sum."""
    heads = F.scaled_dot_product_attention(*self.attention.split(self.norm1(x)))
    project: Any = self.attention.project
    last: Any = self.mlp[3]
    x = x + F.linear(heads.transpose(1, 2).reshape(x.shape), project.weight) + project.bias
    return x + F.linear(F.gelu(self.mlp[0](self.norm2(x))), last.weight) + last.bias


class ByHand(nn.Module):
    """Dropout of a tenth, in one of its spellings."""

    def __init__(self, spelling: int) -> None:
        super().__init__()
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        drawn = torch.rand_like(x)
        if self.spelling == 0:
            return x * (drawn >= 0.1) / 0.9
        if self.spelling == 1:
            return x * torch.floor(drawn + 0.9) / 0.9
        if self.spelling == 2:
            return torch.where(drawn < 0.1, 0.0, x / 0.9)
        return x.masked_fill(~(drawn > 0.1), 0.0) / 0.9


@correct(VIT, "dropout of a tenth in each perceptron, written by hand in four ways")
def dropout_by_hand(model: Any) -> nn.Module:
    for number, layer in enumerate(model.layers):
        layer.mlp[4] = ByHand(number)
    return model


class OneImage(VisionTransformer):
    """Written for one image, and mapped over the batch."""

    def single(self, image: Tensor) -> Tensor:
        """Logits of one image."""
        patches = self.patch_embedding(image).flatten(1).t()
        x = torch.cat((self.class_token[0], patches)) + self.position_embedding[0]
        return self.head(self.norm(self.layers(x[None])[0, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(self.single)(x)


@correct(VIT, "single images are mapped over the batch with torch.vmap")
def mapped_over_images(model: Any) -> nn.Module:
    return become(model, OneImage)


class ProductsAndSums(SelfAttention):
    """Both products of attention as elementwise products and sums."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        scores = (q[:, :, :, None] * k[:, :, None]).sum(-1) * q.shape[-1] ** -0.5
        mixed = (scores.softmax(-1)[..., None] * v[:, :, None]).sum(3)
        return self.project(mixed.transpose(1, 2).flatten(2))


@correct(VIT, "attention is elementwise products and sums")
def products_and_sums(model: Any) -> nn.Module:
    for _, attention in of_type(model, SelfAttention):
        become(attention, ProductsAndSums)
    return model


@correct(VIT, "torch.vmap maps over single images, with the softmax written out")
def mapped_products(model: Any) -> nn.Module:
    for _, attention in of_type(model, SelfAttention):
        become(attention, ProductsAndSums)
    return become(model, OneImage)


class GridPositions(nn.Module):
    """The patches' positions are kept as an image is, and added to the patch convolution's result."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.net = model
        positions = model.position_embedding.detach()[0]
        del model.position_embedding
        side = math.isqrt(len(positions) - 1)
        self.first = nn.Parameter(positions[0].clone())
        self.grid = nn.Parameter(positions[1:].t().reshape(1, WIDTH, side, side).clone())

    def forward(self, x: Tensor) -> Tensor:
        patches = (self.net.patch_embedding(x) + self.grid).flatten(2).mT
        first = (self.net.class_token + self.first).expand(len(x), -1, -1)
        return self.net.head(self.net.norm(self.net.layers(torch.cat((first, patches), 1)))[:, 0])


@correct(VIT, "position embeddings of class token and patches apart, the patches' as an image")
def grid_of_positions(model: Any) -> nn.Module:
    return GridPositions(model)
