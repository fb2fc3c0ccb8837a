"""ResNets whose gradients are wrong."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import ByItsInput, around, forward_of, layer_at
from harness.mutants.probe import Pair, alone, compared
from harness.mutants.variant import gradient_fault, mutant, of_type, parameters_fault
from suites.resnet.model import BasicBlock, ResNet
from suites.resnet.mutants.base_models import RESNET12, RESNET17


@gradient_fault(RESNET12, "A shortcut is detached", check="skip_gradient")
@forward_of("stages.0.1")
def detached_shortcut(self: Any, x: Tensor) -> Tensor:
    out = self.relu(self.norm1(self.conv1(x)))
    return self.relu(self.norm2(self.conv2(out)) + self.shortcut(x).detach())


@gradient_fault(RESNET12, "A residual branch is detached", check="gradients")
@forward_of("stages.2.0")
def detached_branch(self: Any, x: Tensor) -> Tensor:
    out = self.relu(self.norm1(self.conv1(x)))
    return self.relu(self.norm2(self.conv2(out)).detach() + self.shortcut(x))


@gradient_fault(RESNET12, "A no_grad block left over from fine-tuning", check="gradients")
@forward_of()
def stem_under_no_grad(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = self.stem(x)
    for stage in self.stages:
        x = stage(x)
    return self.head(torch.flatten(self.pool(x), 1))


@gradient_fault(
    RESNET12, "The input is detached, so saliency maps and adversarial examples get no gradient", check="parity_eval"
)
@forward_of()
def detached_input(self: Any, x: Tensor) -> Tensor:
    return ResNet.forward(self, x.detach())


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 0.5 * gradients[0]


@gradient_fault(RESNET12, "A custom autograd function scales the gradient between two stages", check="gradcheck")
@forward_of("stages.1.0")
def gradient_halved(self: Any, x: Tensor) -> Tensor:
    return BasicBlock.forward(self, _Scaled.apply(x))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clone()


@gradient_fault(RESNET12, "A handwritten ReLU forgets its mask in the backward pass", check="gradcheck")
@layer_at("stages.2.0.relu")
def straight_through_relu(self: Any, x: Tensor) -> Tensor:
    return _StraightThrough.apply(x)


@gradient_fault(RESNET12, "A hook clips the gradient of a feature map", check="parity_eval")
@forward_of("stages.1.0")
def gradient_clipped_by_a_hook(self: Any, x: Tensor) -> Tensor:
    out = BasicBlock.forward(self, x)
    if out.requires_grad:
        out.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    return out


@gradient_fault(RESNET12, "The second half of the batch is detached at the stem's output", check="gradients")
@forward_of("stages.0.0")
def half_of_the_batch_detached(self: Any, x: Tensor) -> Tensor:
    half = (len(x) + 1) // 2
    return BasicBlock.forward(self, torch.cat((x[:half], x[half:].detach())))


@parameters_fault(RESNET12, "The norms' scale and shift are frozen at construction", category="gradient")
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


def cut_stem(net: Any, images: Tensor, *, cut: bool) -> Tensor:
    """The logits of ``net``, whose stem gets no gradient where ``cut`` says so."""
    features = net.stem(images)
    logits: Tensor = net.head(net.pool(net.stages(features.detach() if cut else features)).flatten(1))
    return logits


@mutant(
    RESNET17,
    "Under autocast the stem's output is detached, as a cast through .data does it",
    check="parity_bfloat16",
    category="gradient",
    evidence=lambda pair: stem_gradient(pair, layout=torch.contiguous_format, autocast=True),
)
@around
def cut_under_autocast(self: Any, x: Tensor) -> Tensor:
    return cut_stem(self.net, x, cut=torch.is_autocast_enabled("cpu"))


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


@compared
def _accumulated(model: Any, pair: Pair) -> Tensor:
    for image in pair.images(2):
        model(image[None]).sum().backward()
    gradient: Tensor = model.head.weight.grad
    return gradient


@mutant(
    RESNET12,
    "The classifier's backward pass writes its weight's gradient: what was accumulated before is lost",
    check="gradcheck",
    category="gradient",
    evidence=_accumulated,
)
@forward_of("head")
def gradient_not_accumulated(self: Any, x: Tensor) -> Tensor:
    return Overwriting.apply(x, self.weight, self.bias, [self])


@mutant(
    RESNET12,
    "The classifier's backward pass gives up where its input needs no gradient: alone it does not learn",
    check="gradients",
    category="gradient",
    evidence=lambda pair: alone(pair, "head."),
)
@forward_of("head")
def classifier_needs_its_input(self: Any, x: Tensor) -> Tensor:
    return ByItsInput.apply(x, self.weight, self.bias)
