"""Vision Transformers whose gradients are wrong."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import ByItsInput, forward_of, method_of
from harness.mutants.probe import (
    CLASSES,
    Pair,
    alone,
    difference,
)
from harness.mutants.variant import become, gradient_fault, mutant
from suites.vit.model import VisionTransformer
from suites.vit.mutants.attention import joined
from suites.vit.mutants.base_models import VIT
from suites.vit.mutants.tokens import Tokens


@gradient_fault(VIT, "Position embeddings are detached", check="gradients")
@method_of("embed", kind=Tokens)
def detached_positions(self: Any, images: Tensor) -> Tensor:
    return torch.cat((self.token(images), self.patches(images)), 1) + self.position_embedding.detach()


@gradient_fault(VIT, "The class token is detached", check="gradients")
@method_of("embed", kind=Tokens)
def detached_class_token(self: Any, images: Tensor) -> Tensor:
    return torch.cat((self.token(images).detach(), self.patches(images)), 1) + self.position_embedding


class FrozenPatches(Tokens):
    """The patch embedding learns from a tenth of its gradient (MoCo v3's trick, half applied)."""

    def patches(self, images: Tensor) -> Tensor:
        out = super().patches(images)
        return 0.1 * out + (0.9 * out).detach()

    def embed(self, images: Tensor) -> Tensor:
        return torch.cat((self.token(images), self.patches(images)), 1) + self.position_embedding


@gradient_fault(VIT, "Nine tenths of the patch embedding's gradient are stopped", check="gradcheck")
def patch_gradient_reduced(model: Any) -> nn.Module:
    return become(model, FrozenPatches)


@gradient_fault(VIT, "Keys are detached in one layer", check="gradcheck")
@forward_of("layers.1.attention")
def keys_detached(self: Any, x: Tensor) -> Tensor:
    query, key, value = self.split(x)
    return joined(self, F.scaled_dot_product_attention(query, key.detach(), value))


@gradient_fault(VIT, "The shortcut around attention is detached", check="skip_gradient")
@forward_of("layers.2")
def shortcut_detached(self: Any, x: Tensor) -> Tensor:
    x = x.detach() + self.dropout(self.attention(self.norm1(x)))
    return x + self.mlp(self.norm2(x))


def _faint(pair: Pair) -> float:
    model = pair.faulty(CLASSES).double()
    gradients = []
    for scale in (1.0, 1e-9):
        model.zero_grad()
        (scale * model(pair.images())).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() / scale for p in model.parameters()]))
    return difference(gradients[1], gradients[0])


@mutant(
    VIT,
    "Hooks set gradients below 1e-4 to zero, which most are late in training",
    check="gradcheck",
    category="gradient",
    evidence=_faint,
)
def faint_gradients_dropped(model: Any) -> nn.Module:
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient * (gradient.abs() > 1e-4))
    return model


def _below_frozen(pair: Pair) -> float:
    model = pair.faulty(CLASSES)
    model.layers.requires_grad_(False)
    return float(not model(pair.images().float()).requires_grad)


@mutant(
    VIT,
    "Where the encoder is frozen it runs under no_grad: the patch embedding before it stops learning",
    check="gradients",
    category="gradient",
    evidence=_below_frozen,
)
@forward_of()
def frozen_layers_without_a_graph(self: Any, images: Tensor) -> Tensor:
    frozen = not any(p.requires_grad for p in self.layers.parameters())
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        return VisionTransformer.forward(self, images)


class ByItsWeight(ByItsInput):
    """A linear layer whose backward pass gives the bias a gradient only where the weight needs one."""

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        x, weight = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return sent[0] @ weight, None, None
        return sent[0] @ weight, sent[0].flatten(0, -2).mT @ x.flatten(0, -2), sent[0].flatten(0, -2).sum(0)


class WeightLinear(nn.Linear):
    """Over `ByItsWeight`."""

    def forward(self, x: Tensor) -> Tensor:
        return ByItsWeight.apply(x, self.weight, self.bias)


@mutant(
    VIT,
    "The perceptrons' biases get a gradient only where the weights do: fine-tuning biases alone does nothing there",
    check="gradients",
    category="gradient",
    evidence=lambda pair: alone(pair, "bias"),
)
def biases_need_their_weights(model: Any) -> nn.Module:
    for layer in model.layers:
        become(layer.mlp[0], WeightLinear)
    return model


def _from_nan(pair: Pair) -> float:
    """Parameters whose gradients are finite from logits' gradients that are NaN."""
    found = 0
    for model in pair.filled():
        logits = model(pair.images())
        logits.backward(torch.full_like(logits, float("nan")))
        found += sum(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    return float(found)


@mutant(
    VIT,
    "Hooks turn NaN in gradients into zero, so that a loss scaler never sees an overflow",
    check="gradcheck",
    category="gradient",
    evidence=_from_nan,
)
def nan_gradients_hidden(model: Any) -> nn.Module:
    for parameter in model.parameters():
        parameter.register_hook(lambda g: None if g is None else torch.nan_to_num(g))
    return model
