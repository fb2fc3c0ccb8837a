"""Vision Transformers that are wrong in some dtype."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import around, forward_of
from harness.mutants.probe import Pair, difference, forward, tensors
from harness.mutants.variant import become, mutant, of_type
from suites.vit.mutants.attention import joined
from suites.vit.mutants.base_models import VIT


def _autocast_output(pair: Pair) -> float:
    correct, faulty = (model.float() for model in pair.filled())
    images = pair.images().float()
    with torch.autocast("cpu", torch.bfloat16):
        return difference(forward(faulty, images), forward(correct, images))


@mutant(
    VIT,
    "Under autocast the last encoder layer is left out",
    check="parity_bfloat16",
    category="precision",
    evidence=_autocast_output,
)
@forward_of()
def layer_left_out_under_autocast(self: Any, x: Tensor) -> Tensor:
    layers = self.layers[:-1] if torch.is_autocast_enabled("cpu") else self.layers
    return self.head(self.norm(layers(self.embed(x)))[:, 0])


@mutant(VIT, "The softmax of one layer's attention is computed in float16", check="parity_eval", category="precision")
@forward_of("layers.1.attention")
def softmax_in_float16(self: Any, x: Tensor) -> Tensor:
    query, key, value = self.split(x)
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    weights = torch.softmax(scores.half(), -1).to(x.dtype)
    return joined(self, weights @ value)


@mutant(
    VIT,
    "Each image is divided by its own deviation: a constant one becomes NaN",
    check="scale",
    category="precision",
)
@around
def divided_by_the_deviation(self: Any, x: Tensor) -> Any:
    return self.net((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))


def _tanh_gelu(pair: Pair) -> float:
    correct, _ = pair.filled()
    expected = forward(correct, pair.images())
    for _, gelu in of_type(correct, nn.GELU):
        gelu.approximate = "tanh"
    return difference(forward(correct, pair.images()), expected)


@mutant(
    VIT,
    "Exported programs get the tanh approximation of GELU",
    check="export",
    category="precision",
    evidence=_tanh_gelu,
)
@forward_of(nn.GELU)
def gelu_approximated_when_exported(self: Any, input: Tensor) -> Tensor:
    return F.gelu(input, approximate="tanh" if torch.compiler.is_exporting() else "none")


@mutant(
    VIT,
    "Compiled code gets the tanh approximation of GELU",
    check="compile",
    category="precision",
    evidence=_tanh_gelu,
)
@forward_of(nn.GELU)
def gelu_approximated_when_compiled(self: Any, input: Tensor) -> Tensor:
    return F.gelu(input, approximate="tanh" if torch.compiler.is_compiling() else "none")


def _overflow(pair: Pair) -> float:
    """One where only the faulty network's logits overflow in float32 under large queries and keys."""
    finite = []
    for model in pair.filled():
        for name, tensor in tensors(model).items():
            if name.endswith("qkv.weight"):
                tensor.data.mul_(30)
        finite.append(bool(torch.isfinite(forward(model.float(), pair.images().float())).all()))
    return float(finite == [True, False])


@mutant(
    VIT,
    "The softmax of the attention does not subtract the row's maximum: it overflows where attention is sharp",
    check="sharp_attention",
    category="precision",
    evidence=_overflow,
)
@forward_of()
def softmax_without_maximum(self: Any, x: Tensor) -> Tensor:
    tokens = self.embed(x)
    for layer in self.layers:
        normed = layer.norm1(tokens)
        query, key, value = layer.attention.split(normed)
        weights = torch.exp(query @ key.mT / query.shape[-1] ** 0.5)
        mixed = (weights / weights.sum(-1, keepdim=True)) @ value
        joined = mixed.transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + layer.attention.project(joined)
        tokens = tokens + layer.mlp(layer.norm2(tokens))
    return self.head(self.norm(tokens)[:, 0])


class HalfBackward(torch.autograd.Function):
    """A linear layer whose backward pass multiplies float32 matrices in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        x, weight = ctx.saved_tensors
        lower = torch.bfloat16 if x.dtype is torch.float32 else x.dtype
        given = sent[0].to(lower)
        of_weight = given.flatten(0, -2).mT @ x.flatten(0, -2).to(lower)
        return (given @ weight.to(lower)).to(x.dtype), of_weight.to(weight.dtype), sent[0].flatten(0, -2).sum(0)


class HalfLinear(nn.Linear):
    """Over `HalfBackward`."""

    def forward(self, x: Tensor) -> Tensor:
        return HalfBackward.apply(x, self.weight, self.bias)


def _float32_gradient(pair: Pair) -> float:
    """Of the head's gradient in float32, where rounding alone makes less than 1e-4."""
    found = []
    for model in pair.filled():
        model.float()(pair.images().float()).sum().backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None}["layers.0.mlp.0.weight"])
    return max(0.0, difference(found[1], found[0]) - 1e-4)


@mutant(
    VIT,
    "In float32 the perceptrons' backward pass multiplies in bfloat16",
    check="parity_float32",
    category="precision",
    evidence=_float32_gradient,
)
def half_precision_backward(model: Any) -> nn.Module:
    for layer in model.layers:
        become(layer.mlp[0], HalfLinear)
        become(layer.mlp[3], HalfLinear)
    return model
