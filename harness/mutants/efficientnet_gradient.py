"""EfficientNets whose forward pass is right and whose backward pass is not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.evidence import gradient
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET
from harness.mutants.surgery import become, of_type, replaced
from suites.efficientnet.model import MBConv, SiLU, SqueezeExcitation


class DetachedGates(SqueezeExcitation):
    """The gates learn nothing about the features."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.detach().mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.activation(self.reduce(pooled))))


@mutant(
    EFFICIENTNET,
    "The features are detached on their way to the gates",
    check="gradcheck",
    category="gradient",
    evidence=gradient,
)
def detached_squeeze(model: Any) -> nn.Module:
    for _, squeeze in of_type(model, SqueezeExcitation):
        become(squeeze, DetachedGates)
    return model


class ConstantGates(SqueezeExcitation):
    """The gates are computed under no_grad."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = self.gate(self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * gate


@mutant(
    EFFICIENTNET,
    "The gates of a block are computed under no_grad",
    check="gradients",
    category="gradient",
    evidence=gradient,
)
def gates_under_no_grad(model: Any) -> nn.Module:
    become(model.features[5][0].branch[2], ConstantGates)
    return model


class _EfficientSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * x.sigmoid()  # without x * sigmoid'(x)


class EfficientSwish(nn.Module):
    """Swish that saves memory and half of its derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return _EfficientSwish.apply(x)


@mutant(
    EFFICIENTNET,
    "A memory-efficient swish forgets a term of its derivative",
    check="gradcheck",
    category="gradient",
    evidence=gradient,
)
def swish_with_a_wrong_derivative(model: Any) -> nn.Module:
    for name, _ in of_type(model, SiLU):
        replaced(model, name, EfficientSwish())
    return model


class DetachedShortcut(MBConv):
    """Adds its input as a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.branch(x)) + x.detach()


@mutant(EFFICIENTNET, "A shortcut is detached", check="skip_gradient", category="gradient", evidence=gradient)
def detached_shortcut(model: Any) -> nn.Module:
    become(model.features[4][1], DetachedShortcut)
    return model
