"""Faults of the backward pass that only other draws, another precision or a second derivative show."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.mutants.evidence import Pair, difference
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, VIT
from harness.mutants.surgery import become, of_type
from suites.efficientnet.model import EfficientNet, SiLU


class Recomputing(EfficientNet):
    """Computes every stage anew in the backward pass, and forgets what was drawn."""

    def forward(self, x: Tensor) -> Any:
        for stage in self.features:
            x = checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False)
        return self.classifier(self.dropout(self.pool(x).flatten(1)))


def _gradients_of_one_pass(pair: Pair) -> float:
    """Of the stem's gradient between two backward passes of one forward pass, with other seeds between."""
    _, faulty = pair.filled()
    images, found = pair.images(16), []
    for later in (1, 2):
        torch.manual_seed(0)
        logits = faulty.train()(images)
        torch.manual_seed(later)
        (gradient,) = torch.autograd.grad(logits.sum(), next(faulty.parameters()))
        found.append(gradient)
    return difference(found[1], found[0])


@mutant(
    EFFICIENTNET,
    "Checkpointed stages drop other branches in the backward pass than in the forward pass",
    check="stochastic",
    category="gradient",
    evidence=_gradients_of_one_pass,
)
def checkpoint_without_generator(model: Any) -> nn.Module:
    return become(model, Recomputing)


class Tabulated(torch.autograd.Function):
    """SiLU that computes its derivative in the forward pass and multiplies by it in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        ctx.save_for_backward(gate * (1 + x * (1 - gate)))
        return x * gate

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Tensor:
        (slope,) = ctx.saved_tensors
        return sent[0] * slope


class TabulatedSiLU(SiLU):
    """Over `Tabulated`."""

    def forward(self, x: Tensor) -> Tensor:
        return Tabulated.apply(x)


def _twice(pair: Pair) -> float:
    found = []
    for model in pair.filled():
        images = pair.images(1).requires_grad_()
        (first,) = torch.autograd.grad(model(images).sum(), images, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), images)
        found.append(second)
    return difference(found[1], found[0])


@mutant(
    EFFICIENTNET,
    "SiLU saves its derivative: differentiated twice, the derivative of the derivative is missing",
    check="gradcheck",
    category="gradient",
    evidence=_twice,
)
def derivative_saved(model: Any) -> nn.Module:
    for _, activation in of_type(model, SiLU):
        become(activation, TabulatedSiLU)
    return model


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
