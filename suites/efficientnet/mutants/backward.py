"""EfficientNets whose gradients are wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.mutants.operators import forward_of, layer_at
from harness.mutants.probe import Pair, compared, difference
from harness.mutants.variant import gradient_fault, mutant
from suites.efficientnet.model import SiLU, SqueezeExcitation
from suites.efficientnet.mutants.base_models import EFFICIENTNET


@gradient_fault(EFFICIENTNET, "The features are detached on their way to the gates", check="gradcheck")
@forward_of(SqueezeExcitation)
def detached_squeeze(self: Any, x: Tensor) -> Tensor:
    pooled = x.detach().mean((2, 3), keepdim=True)
    return x * self.gate(self.expand(self.activation(self.reduce(pooled))))


@gradient_fault(EFFICIENTNET, "The gates of a block are computed under no_grad", check="gradients")
@forward_of("features.5.0.branch.2")
def gates_under_no_grad(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        gate = self.gate(self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True)))))
    return x * gate


class _EfficientSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * x.sigmoid()  # without x * sigmoid'(x)


@gradient_fault(EFFICIENTNET, "A memory-efficient swish forgets a term of its derivative", check="gradcheck")
@layer_at(SiLU)
def swish_with_a_wrong_derivative(self: Any, x: Tensor) -> Tensor:
    return _EfficientSwish.apply(x)


@gradient_fault(EFFICIENTNET, "A shortcut is detached", check="skip_gradient")
@forward_of("features.4.1")
def detached_shortcut(self: Any, x: Tensor) -> Tensor:
    return self.drop_path(self.branch(x)) + x.detach()


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
@forward_of()
def checkpoint_without_generator(self: Any, x: Tensor) -> Any:
    for stage in self.features:
        x = checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False)
    return self.classifier(self.dropout(self.pool(x).flatten(1)))


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


@compared
def _twice(model: nn.Module, pair: Pair) -> Tensor:
    images = pair.images(1).requires_grad_()
    (first,) = torch.autograd.grad(model(images).sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), images)
    return second


@mutant(
    EFFICIENTNET,
    "SiLU saves its derivative: differentiated twice, the derivative of the derivative is missing",
    check="gradcheck",
    category="gradient",
    evidence=_twice,
)
@forward_of(SiLU)
def derivative_saved(self: Any, x: Tensor) -> Tensor:
    return Tabulated.apply(x)
