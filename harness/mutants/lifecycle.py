"""Faults between passes: what switching modes, calling twice and building again do."""

from __future__ import annotations

import gc
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import CLASSES, Pair, difference, gradients
from harness.mutants.mutant import instead, mutant
from harness.mutants.specimens import RESNET12, VIT, resnet12, vit_short_8
from harness.mutants.surgery import Around, become, of_type
from suites.resnet.model import BasicBlock, ResNet
from suites.vit.model import SelfAttention, VisionTransformer


class Refolding(ResNet):
    """Stores each norm's gain anew when it is switched to eval mode."""

    def train(self, mode: bool = True) -> Refolding:
        super().train(mode)
        for _, norm in of_type(self, nn.BatchNorm2d) if not mode else ():
            norm.weight = nn.Parameter(norm.weight.detach().clone())
        return self


def _replaced_parameters(pair: Pair) -> float:
    model = pair.faulty(CLASSES)
    before = {id(p) for p in model.parameters()}
    model.eval().train()
    return float(sum(id(p) not in before for p in model.parameters()))


@mutant(
    RESNET12,
    "eval() puts new parameters in the place of the norms' gains: an optimizer made before goes on with the old ones",
    check="mode_switch",
    category="state",
    evidence=_replaced_parameters,
)
def eval_replaces_parameters(model: Any) -> nn.Module:
    return become(model, Refolding)


class ForgetsItself(ResNet):
    """``train`` without a return value."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)


@mutant(
    RESNET12,
    "train() is overridden and does not return the module, so that model.eval()(images) fails",
    check="parameters",
    category="state",
    evidence=lambda pair: float(pair.faulty(CLASSES).eval() is None),
)
def train_returns_nothing(model: Any) -> nn.Module:
    return become(model, ForgetsItself)


class LazyScale(SelfAttention):
    """Makes its scale at the first call, and keeps it."""

    scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        if self.scale is None or self.scale.dtype != x.dtype or self.scale.device != x.device:
            self.scale = torch.full((1, self.heads, 1, 1), q.shape[-1] ** -0.5, dtype=x.dtype, device=x.device)
        heads = torch.softmax((q * self.scale) @ k.mT, -1) @ v
        out: Tensor = self.project(heads.transpose(1, 2).reshape(x.shape))
        return out


def _refuses_training(pair: Pair) -> float:
    _, faulty = pair.filled()
    with torch.inference_mode():
        faulty(pair.images())
    try:
        faulty.train()(pair.images())
    except RuntimeError:
        return 1.0
    return 0.0


@mutant(
    VIT,
    "A constant made at the first call is kept: made under inference_mode, it can't be trained with",
    check="mode_switch",
    category="state",
    evidence=_refuses_training,
)
def constant_of_the_first_call(model: Any) -> nn.Module:
    for layer in model.layers:
        become(layer.attention, LazyScale)
    return model


class KeptMask(torch.autograd.Function):
    """ReLU whose backward pass reads what the module saw last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any) -> Tensor:
        ctx.module, module.kept = module, x.clamp(min=0)
        out: Tensor = module.kept.clone()
        return out

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, None]:
        return outputs[0] * (ctx.module.kept[: len(outputs[0])] > 0), None


class KeepsMask(nn.Module):
    """`KeptMask` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = KeptMask.apply(x, self)
        return out


class OwnReLU(BasicBlock):
    """Its last ReLU keeps its mask on the module."""

    last: KeepsMask

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        joined: Tensor = self.last(self.norm2(self.conv2(out)) + self.shortcut(x))
        return joined


def _gradient_across_passes(pair: Pair) -> float:
    _, faulty = pair.filled()
    expected = gradients(faulty, pair.images())["images"]
    images = pair.images().requires_grad_()
    logits = faulty(images)
    faulty(pair.images().flip(0))
    weights = torch.linspace(0.5, 1.5, logits.numel(), dtype=logits.dtype).view(logits.shape)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), images)
    return difference(gradient, expected)


@mutant(
    RESNET12,
    "A hand-written ReLU keeps its mask on the module: a second forward pass spoils the first one's backward pass",
    check="no_cache",
    category="state",
    evidence=_gradient_across_passes,
)
def mask_kept_on_the_module(model: Any) -> nn.Module:
    for _, block in of_type(model, BasicBlock):
        block.last = KeepsMask()
        become(block, OwnReLU)
    return model


class Gathering(Around):
    """Appends its logits to a list that nobody clears."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        self.seen.append(self.net(x))
        return self.seen[-1].clone()


def _kept(pair: Pair) -> float:
    model, counts = pair.faulty(CLASSES), []
    for _ in range(3):
        model(pair.images().float())
        gc.collect()
        counts.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))
    return float(max(0, counts[2] - counts[1]))


@mutant(
    RESNET12,
    "Every forward pass appends its logits, and with them its graph, to a list that is never cleared",
    check="no_cache",
    category="state",
    evidence=_kept,
)
def logits_gathered_for_ever(model: Any) -> nn.Module:
    return Gathering(model)


_remembered = cache(resnet12)


@instead(
    RESNET12,
    "The factory is cached: every call gives the same network",
    check="initialisation",
    category="initialisation",
    evidence=lambda pair: float(pair.faulty(CLASSES) is pair.faulty(CLASSES)),
)
def cached_factory(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    return _remembered(num_classes, in_channels)


class Repeated(ResNet):
    """Repeats grey images to three channels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.expand(-1, 3, -1, -1))


@instead(
    RESNET12,
    "Asked for one channel, it keeps the stem of three and repeats the image",
    check="shapes",
    category="forward",
    evidence=lambda pair: float(
        pair.faulty(10, 1).stem[0].weight.shape[1] - pair.correct(10, 1).stem[0].weight.shape[1]
    ),
)
def grey_images_repeated(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    model = resnet12(num_classes, 3 if in_channels == 1 else in_channels)
    return become(model, Repeated) if in_channels == 1 else model


class Binary(ResNet):
    """One class means a probability."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.sigmoid() if logits.shape[1] == 1 else logits


def _binary(pair: Pair) -> float:
    with torch.no_grad():
        torch.manual_seed(0)
        outs = [f(1).eval()(100 * pair.images().float()) for f in (pair.faulty, pair.correct)]
    return float(outs[0].abs().max() <= 1 < outs[1].abs().max())


@mutant(RESNET12, "With one class it returns a sigmoid, not the logit", check="shapes", evidence=_binary)
def sigmoid_for_one_class(model: Any) -> nn.Module:
    return become(model, Binary)


class Stretched(VisionTransformer):
    """Stretches the positions of the published size, the class token's among them."""

    def embed(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images).flatten(2).mT
        tokens = torch.cat((self.class_token.expand(len(images), -1, -1), patches), 1)
        positions = F.interpolate(self.position_embedding.mT, size=tokens.shape[1], mode="linear").mT
        return self.dropout(tokens + positions)


@instead(
    VIT,
    "Built for images larger than published, it stretches the published positions, the class token's among them",
    check="shapes",
    category="size",
    evidence=lambda pair: float(
        len(pair.correct(10, 3, 64).position_embedding[0]) - len(pair.faulty(10, 3, 64).position_embedding[0])
    ),
)
def positions_stretched(num_classes: int = 1000, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    model = vit_short_8(num_classes, in_channels, min(image_size, 32))
    if image_size > 32:
        become(model, Stretched)
        model.image_size = image_size
    return model
