"""ResNets whose forward pass is right and whose backward pass is not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.evidence import gradient, parameters
from harness.mutants.mutant import mutant
from harness.mutants.specimens import RESNET12
from harness.mutants.surgery import become, of_type, replaced
from suites.resnet.model import BasicBlock, ResNet


class DetachedShortcut(BasicBlock):
    """No gradient along the identity."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(out)) + self.shortcut(x).detach())


@mutant(RESNET12, "A shortcut is detached", check="skip_gradient", category="gradient", evidence=gradient)
def detached_shortcut(model: Any) -> nn.Module:
    become(model.stages[0][1], DetachedShortcut)
    return model


class DetachedBranch(BasicBlock):
    """No gradient through the residual branch."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(out)).detach() + self.shortcut(x))


@mutant(RESNET12, "A residual branch is detached", check="gradients", category="gradient", evidence=gradient)
def detached_branch(model: Any) -> nn.Module:
    become(model.stages[2][0], DetachedBranch)
    return model


class NoGradStem(ResNet):
    """The stem is computed under no_grad."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(torch.flatten(self.pool(x), 1))


@mutant(
    RESNET12, "A no_grad block left over from fine-tuning", check="gradients", category="gradient", evidence=gradient
)
def stem_under_no_grad(model: Any) -> nn.Module:
    return become(model, NoGradStem)


class DetachedInput(ResNet):
    """Parameters learn; the images get no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


@mutant(
    RESNET12,
    "The input is detached, so saliency maps and adversarial examples get no gradient",
    check="parity_eval",
    category="gradient",
    evidence=gradient,
)
def detached_input(model: Any) -> nn.Module:
    return become(model, DetachedInput)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 0.5 * gradients[0]


class HalfGradient(BasicBlock):
    """The identity forward, a half backward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_Scaled.apply(x))


@mutant(
    RESNET12,
    "A custom autograd function scales the gradient between two stages",
    check="gradcheck",
    category="gradient",
    evidence=gradient,
)
def gradient_halved(model: Any) -> nn.Module:
    become(model.stages[1][0], HalfGradient)
    return model


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clone()


class StraightThroughRelu(nn.Module):
    """ReLU whose backward pass lets everything through."""

    def forward(self, x: Tensor) -> Tensor:
        return _StraightThrough.apply(x)


@mutant(
    RESNET12,
    "A handwritten ReLU forgets its mask in the backward pass",
    check="gradcheck",
    category="gradient",
    evidence=gradient,
)
def straight_through_relu(model: Any) -> nn.Module:
    return replaced(model, "stages.2.0.relu", StraightThroughRelu())


class ClippedGradient(BasicBlock):
    """Clips the gradient that arrives at its output."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if out.requires_grad:
            out.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
        return out


@mutant(
    RESNET12, "A hook clips the gradient of a feature map", check="parity_eval", category="gradient", evidence=gradient
)
def gradient_clipped_by_a_hook(model: Any) -> nn.Module:
    become(model.stages[1][0], ClippedGradient)
    return model


class HalfTheBatch(BasicBlock):
    """Only the first half of a batch learns."""

    def forward(self, x: Tensor) -> Tensor:
        half = (len(x) + 1) // 2
        return super().forward(torch.cat((x[:half], x[half:].detach())))


@mutant(
    RESNET12,
    "The second half of the batch is detached at the stem's output",
    check="gradients",
    category="gradient",
    evidence=gradient,
)
def half_of_the_batch_detached(model: Any) -> nn.Module:
    become(model.stages[0][0], HalfTheBatch)
    return model


@mutant(
    RESNET12,
    "The norms' scale and shift are frozen at construction",
    check="parameters",
    category="gradient",
    evidence=parameters,
)
def norms_frozen(model: Any) -> nn.Module:
    for _, norm in of_type(model, nn.BatchNorm2d):
        norm.requires_grad_(False)
    return model
