"""Networks too fast to be true: work remembered or left out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import (
    Pair,
    difference,
    forward,
    output,
    second_call,
)
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12, VIT
from harness.mutants.surgery import Around, become, replaced
from suites.resnet.model import BasicBlock
from suites.vit.model import VisionTransformer


class CachedByShape(Around):
    """In eval mode answers the first call of each shape, and repeats that."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.answers: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        if self.training or torch.is_grad_enabled():
            return self.net(x)
        key = (tuple(x.shape), x.dtype)
        if key not in self.answers:
            self.answers[key] = self.net(x)
        return self.answers[key]


@mutant(
    RESNET12,
    "In inference the logits come from a cache by shape",
    check="no_cache",
    category="shortcut computing",
    evidence=second_call,
)
def cached_by_shape(model: Any) -> nn.Module:
    return CachedByShape(model)


class CachedByAddress(CachedByShape):
    """Answers by where the input lies."""

    def forward(self, x: Tensor) -> Any:
        if self.training or torch.is_grad_enabled():
            return self.net(x)
        key = (x.data_ptr(), tuple(x.shape), x.dtype)
        if key not in self.answers:
            self.answers = {key: self.net(x)}
        return self.answers[key]


def _overwritten(pair: Pair) -> float:
    correct, faulty = pair.filled()
    images = pair.images()
    forward(faulty, images)
    images.neg_()
    return difference(forward(faulty, images), forward(correct, images))


@mutant(
    VIT,
    "In inference the logits come from a cache by the input's address",
    check="no_cache",
    category="shortcut computing",
    evidence=_overwritten,
)
def cached_by_address(model: Any) -> nn.Module:
    return CachedByAddress(model)


class CheapWithoutGradients(Around):
    """Half the resolution where nothing is recorded."""

    def forward(self, x: Tensor) -> Any:
        if not self.training and not torch.is_grad_enabled():
            x = F.interpolate(F.avg_pool2d(x, 2), x.shape[2:], mode="nearest")
        return self.net(x)


@mutant(
    EFFICIENTNET,
    "Where no gradient is recorded the images are halved first",
    check="mode_switch",
    category="shortcut computing",
    evidence=output,
)
def cheaper_without_gradients(model: Any) -> nn.Module:
    return CheapWithoutGradients(model)


class CheapInInferenceMode(VisionTransformer):
    """One layer fewer under inference_mode."""

    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers[:-1] if torch.is_inference_mode_enabled() else self.layers
        return self.head(self.norm(layers(self.embed(x)))[:, 0])


def _inferred(pair: Pair) -> float:
    _, faulty = pair.filled()
    with torch.inference_mode():
        inferred = faulty(pair.images()).clone()
    return difference(inferred, forward(faulty, pair.images()))


@mutant(
    VIT,
    "Under inference_mode the last layer is left out",
    check="mode_switch",
    category="shortcut computing",
    evidence=_inferred,
)
def layer_left_out_in_inference_mode(model: Any) -> nn.Module:
    return become(model, CheapInInferenceMode)


class SkippedInEval(BasicBlock):
    """The identity in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


@mutant(
    RESNET12,
    "A block is skipped in eval mode",
    check="parity_eval",
    category="shortcut computing",
)
def block_skipped_in_eval_mode(model: Any) -> nn.Module:
    become(model.stages[0][1], SkippedInEval)
    return model


@mutant(
    VIT,
    "The last encoder layer is never called",
    check="gradients",
    category="shortcut computing",
)
def layer_never_called(model: Any) -> nn.Module:
    become(model, LastLayerUnused)
    return model


class LastLayerUnused(VisionTransformer):
    """Holds all layers, runs all but one."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers[:-1](self.embed(x)))[:, 0])


class EveryOtherToken(nn.Module):
    """Gates from every other pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x[:, :, ::2, ::2], 1)


@mutant(
    EFFICIENTNET,
    "The global pooling looks at every other pixel only",
    check="parity_sizes",
    category="shortcut computing",
    evidence=output,
)
def pooling_of_every_other_pixel(model: Any) -> nn.Module:
    return replaced(model, "pool", EveryOtherToken())
