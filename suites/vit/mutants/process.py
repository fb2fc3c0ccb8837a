"""Vision Transformers that change the process around them, keep state between calls, or leave work out."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import CachedByShape, around, forward_of
from harness.mutants.probe import Pair, difference, forward
from harness.mutants.state_probe import changes, input_change, repeated_call, reseeds
from harness.mutants.variant import Around, become, mutant, process_fault
from suites.vit.model import VisionTransformer
from suites.vit.mutants.base_models import VIT


class MovingAverage(Around):
    """Smooths the logits over calls."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.level = 0.0

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        if not self.training and not logits.is_meta:
            self.level = 0.9 * self.level + 0.1 * float(logits.detach().mean())
        return logits - self.level


@mutant(
    VIT,
    "In eval mode the logits are centred by a moving average over earlier calls",
    check="determinism",
    category="state",
    evidence=repeated_call,
)
def moving_average_of_logits(model: Any) -> nn.Module:
    return MovingAverage(model)


@mutant(
    VIT,
    "In train mode a pixel of the caller's images is blanked",
    check="input_untouched",
    category="state",
    evidence=input_change,
)
@around
def input_blanked_in_training(self: Any, x: Tensor) -> Any:
    logits = self.net(x)
    if self.training:
        x.data[:, :, 0, 0] = 0
    return logits


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
@forward_of()
def layer_left_out_in_inference_mode(self: Any, x: Tensor) -> Tensor:
    layers = self.layers[:-1] if torch.is_inference_mode_enabled() else self.layers
    return self.head(self.norm(layers(self.embed(x)))[:, 0])


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


@process_fault(
    VIT,
    "Building the model seeds Python's generator and NumPy's (a seed_everything left in the constructor)",
    evidence=reseeds(random.seed, random.random),
)
def seeds_python_when_built(model: Any) -> nn.Module:
    random.seed(42)
    np.random.seed(42)
    return model


@process_fault(VIT, "Building the model makes float64 the default", evidence=changes(torch.get_default_dtype))
def default_dtype_changed(model: Any) -> nn.Module:
    torch.set_default_dtype(torch.float64)
    return model


def _gradients_after(pair: Pair) -> float:
    pair.faulty(10).eval()(pair.images().float())
    return float(not torch.is_grad_enabled())


@process_fault(VIT, "A call in eval mode switches gradients off for the whole process", evidence=_gradients_after)
@around
def gradients_left_off(self: Any, x: Tensor) -> Any:
    if not self.training:
        torch.set_grad_enabled(False)
    return self.net(x)


@process_fault(
    VIT,
    "Building the model puts tanh-GELU in the place of torch's GELU, for its references too",
    evidence=changes(lambda: F.gelu),
)
def gelu_replaced(model: Any) -> nn.Module:
    F.gelu = partial(torch._C._nn.gelu, approximate="tanh")
    return nn.Module.train(model)
