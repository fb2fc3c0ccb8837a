"""EfficientNets that are wrong for some image sizes, batches, memory formats or dtypes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import around, forward_of, layer_at
from harness.mutants.probe import (
    ALONE,
    CHANNELS_LAST,
    WIDE,
    Pair,
    difference,
    forward,
    statistics,
    trained_at,
    undefined,
)
from harness.mutants.variant import mutant, replaced
from suites.efficientnet.model import SiLU
from suites.efficientnet.mutants.base_models import EFFICIENTNET


@mutant(EFFICIENTNET, "Images that are not square are made so", check="parity_sizes", category="size", evidence=WIDE)
@around
def made_square(self: Any, x: Tensor) -> Any:
    height, width = x.shape[2:]
    return self.net(x if height == width else F.interpolate(x, (height, height), mode="bilinear"))


@mutant(
    EFFICIENTNET,
    "Height and width are exchanged where the image is wider than high",
    check="parity_sizes",
    category="size",
    evidence=WIDE,
)
@around
def height_and_width_exchanged(self: Any, x: Tensor) -> Any:
    return self.net(x.transpose(2, 3) if x.shape[3] > x.shape[2] else x)


@mutant(
    EFFICIENTNET,
    "squeeze() without a dimension also takes away a batch of one",
    check="shapes",
    category="batch",
    evidence=ALONE,
)
@around
def squeeze_of_a_batch_of_one(self: Any, x: Tensor) -> Any:
    return self.net(x).squeeze()


def _beside_a_bright_one(pair: Pair) -> float:
    correct, faulty = pair.filled()
    images = pair.images()
    images[1:] *= 100
    return difference(forward(faulty, images)[:1], forward(correct, images)[:1])


@mutant(
    EFFICIENTNET,
    "A batch with one bright image is taken for bytes and divided by 255",
    check="batch_independence",
    category="batch",
    evidence=_beside_a_bright_one,
)
@around
def bytes_guessed_from_the_batch(self: Any, x: Tensor) -> Any:
    return self.net(x / 255 if x.abs().max().item() > 25 else x)


@mutant(
    EFFICIENTNET,
    "The BatchNorms are built without running statistics",
    check="batch_independence",
    category="batch",
)
def no_running_statistics(model: Any) -> nn.Module:
    for name, norm in list(model.named_modules()):
        if isinstance(norm, nn.BatchNorm2d):
            replaced(model, name, nn.BatchNorm2d(norm.num_features, eps=norm.eps, track_running_stats=False))
    return model


@mutant(
    EFFICIENTNET,
    "A single image is centred by its own mean, a batch is not",
    check="batch_independence",
    category="batch",
    evidence=ALONE,
)
@around
def single_image_centred(self: Any, x: Tensor) -> Any:
    if len(x) == 1:
        x = x - x.mean()
    return self.net(x)


@mutant(
    EFFICIENTNET,
    "A training batch of one image is normalised by the running statistics",
    check="parity_train",
    category="batch",
    evidence=trained_at(1),
)
@forward_of("features.0.1")
def single_image_as_in_eval(self: Any, input: Tensor) -> Tensor:
    if len(input) > 1:
        return nn.BatchNorm2d.forward(self, input)
    return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


@mutant(
    EFFICIENTNET,
    "An input in channels_last is permuted as if its sides were in that order too",
    check="memory_format",
    category="layout",
    evidence=CHANNELS_LAST,
)
@around
def channels_last_taken_for_sides(self: Any, x: Tensor) -> Any:
    """Takes a channels_last tensor for (batch, height, width, channels)."""
    if x.stride(1) == 1:
        x = x.permute(0, 2, 3, 1).reshape(x.shape)
    return self.net(x)


@mutant(
    EFFICIENTNET,
    "A handwritten 1x1 convolution assumes contiguous features",
    check="memory_format",
    category="layout",
    evidence=CHANNELS_LAST,
)
@forward_of("features.8.0")
def features_assumed_contiguous(self: Any, input: Tensor) -> Tensor:
    batch, channels, height, width = input.shape
    flat = torch.as_strided(input, (batch, channels, height * width), (channels * height * width, height * width, 1))
    return (self.weight[:, :, 0, 0] @ flat).reshape(batch, -1, height, width)


@mutant(EFFICIENTNET, "The logits are rounded to three decimals", check="parity_eval", category="precision")
@around
def logits_rounded(self: Any, x: Tensor) -> Any:
    """Three decimals, for smaller logs."""
    logits = self.net(x)
    return logits + (logits.round(decimals=3) - logits).detach()


@mutant(
    EFFICIENTNET,
    "A BatchNorm's running mean is kept in half precision",
    check="parity_train",
    category="precision",
    evidence=statistics,
)
@forward_of("features.0.1")
def running_mean_in_half_precision(self: Any, input: Tensor) -> Tensor:
    out = nn.BatchNorm2d.forward(self, input)
    if self.training:
        assert self.running_mean is not None
        self.running_mean = self.running_mean.half().to(input.dtype)
    return out


def _bright(pair: Pair) -> float:
    torch.manual_seed(0)
    correct, faulty = (factory(10).eval() for factory in (pair.correct, pair.faulty))
    faulty.load_state_dict(correct.state_dict())
    images = 100 * pair.images().float()
    return difference(forward(faulty, images), forward(correct, images))


@mutant(
    EFFICIENTNET,
    "SiLU written with exp(x) in the numerator overflows in float32 from 89 on",
    check="scale",
    category="precision",
    evidence=_bright,
)
@layer_at(SiLU)
def silu_overflows(self: Any, x: Tensor) -> Tensor:
    """x exp(x) / (1 + exp(x)), which is infinity over infinity for large x."""
    return x * x.exp() / (1 + x.exp())


@mutant(
    EFFICIENTNET,
    "nan_to_num on the logits hides that training diverged",
    check="nan_propagation",
    category="precision",
    evidence=undefined,
)
@around
def nan_hidden(self: Any, x: Tensor) -> Any:
    return torch.nan_to_num(self.net(x))
