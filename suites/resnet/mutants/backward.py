"""ResNets whose gradients are wrong."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import ByItsInput
from harness.mutants.probe import (
    Pair,
    alone,
    difference,
    gradient,
    parameters,
)
from harness.mutants.variant import Around, become, mutant, of_type, replaced
from suites.resnet.model import BasicBlock, ResNet
from suites.resnet.mutants.base_models import RESNET12, RESNET17


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


def stem_gradient(pair: Pair, *, layout: torch.memory_format, autocast: bool) -> float:
    """One where the first parameter of the faulty network gets no gradient, for images laid out so; else zero."""
    faulty = pair.filled()[1].float().train()
    images = pair.images().float().contiguous(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        faulty(images).float().sum().backward()
    return float(next(faulty.parameters()).grad is None)


class CutStem(Around):
    """Detaches the stem's output under one condition."""

    net: ResNet

    def cut(self, images: Tensor) -> bool:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        features = self.net.stem(x)
        features = features.detach() if self.cut(x) else features
        return self.net.head(self.net.pool(self.net.stages(features)).flatten(1))


class CutUnderAutocast(CutStem):
    """Under autocast."""

    def cut(self, images: Tensor) -> bool:
        return torch.is_autocast_enabled("cpu")


@mutant(
    RESNET17,
    "Under autocast the stem's output is detached, as a cast through .data does it",
    check="parity_bfloat16",
    category="gradient",
    evidence=lambda pair: stem_gradient(pair, layout=torch.contiguous_format, autocast=True),
)
def cut_under_autocast(model: Any) -> nn.Module:
    return CutUnderAutocast(model)


class Linear(torch.autograd.Function):
    """`torch.nn.functional.linear` with a backward pass of its own; ``owner`` holds the module."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, owner: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.owner = owner
        return F.linear(x, weight, bias)


class Overwriting(Linear):
    """Writes the weight's gradient itself."""

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        x, weight = ctx.saved_tensors
        ctx.owner[0].weight.grad = (sent[0].mT @ x).to(weight.dtype)
        return sent[0] @ weight, None, sent[0].sum(0), None


class OverwritingHead(nn.Linear):
    """A linear layer over `Overwriting`."""

    def forward(self, x: Tensor) -> Tensor:
        return Overwriting.apply(x, self.weight, self.bias, [self])


def _accumulated(pair: Pair) -> float:
    gradients = []
    for model in pair.filled():
        for image in pair.images(2):
            model(image[None]).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None}["head.weight"])
    return difference(gradients[1], gradients[0])


@mutant(
    RESNET12,
    "The classifier's backward pass writes its weight's gradient: what was accumulated before is lost",
    check="gradcheck",
    category="gradient",
    evidence=_accumulated,
)
def gradient_not_accumulated(model: Any) -> nn.Module:
    become(model.head, OverwritingHead)
    return model


class InputLinear(nn.Linear):
    """Over `ByItsInput`."""

    def forward(self, x: Tensor) -> Tensor:
        return ByItsInput.apply(x, self.weight, self.bias)


@mutant(
    RESNET12,
    "The classifier's backward pass gives up where its input needs no gradient: alone it does not learn",
    check="gradients",
    category="gradient",
    evidence=lambda pair: alone(pair, "head."),
)
def classifier_needs_its_input(model: Any) -> nn.Module:
    become(model.head, InputLinear)
    return model
