"""EfficientNets that are wrong for some image sizes, batches, memory formats or dtypes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from harness.mutants.variant import Around, become, mutant, of_type, replaced
from suites.efficientnet.model import SiLU
from suites.efficientnet.mutants.base_models import EFFICIENTNET


class Squared(Around):
    """Resizes what is not square."""

    def forward(self, x: Tensor) -> Any:
        height, width = x.shape[2:]
        return self.net(x if height == width else F.interpolate(x, (height, height), mode="bilinear"))


@mutant(EFFICIENTNET, "Images that are not square are made so", check="parity_sizes", category="size", evidence=WIDE)
def made_square(model: Any) -> nn.Module:
    return Squared(model)


class Upright(Around):
    """Turns landscape into portrait."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x.transpose(2, 3) if x.shape[3] > x.shape[2] else x)


@mutant(
    EFFICIENTNET,
    "Height and width are exchanged where the image is wider than high",
    check="parity_sizes",
    category="size",
    evidence=WIDE,
)
def height_and_width_exchanged(model: Any) -> nn.Module:
    return Upright(model)


class SqueezedOutput(Around):
    """Squeezes every side of one."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x).squeeze()


@mutant(
    EFFICIENTNET,
    "squeeze() without a dimension also takes away a batch of one",
    check="shapes",
    category="batch",
    evidence=ALONE,
)
def squeeze_of_a_batch_of_one(model: Any) -> nn.Module:
    return SqueezedOutput(model)


class BytesGuessed(Around):
    """Takes bright images for bytes."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x / 255 if x.abs().max().item() > 25 else x)


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
def bytes_guessed_from_the_batch(model: Any) -> nn.Module:
    return BytesGuessed(model)


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


class SingleByItself(Around):
    """Standardises an image that comes alone."""

    def forward(self, x: Tensor) -> Any:
        if len(x) == 1:
            x = x - x.mean()
        return self.net(x)


@mutant(
    EFFICIENTNET,
    "A single image is centred by its own mean, a batch is not",
    check="batch_independence",
    category="batch",
    evidence=ALONE,
)
def single_image_centred(model: Any) -> nn.Module:
    return SingleByItself(model)


class AloneAsInEval(nn.BatchNorm2d):
    """Uses the running statistics where the batch has one sample."""

    def forward(self, input: Tensor) -> Tensor:
        if len(input) > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


@mutant(
    EFFICIENTNET,
    "A training batch of one image is normalised by the running statistics",
    check="parity_train",
    category="batch",
    evidence=trained_at(1),
)
def single_image_as_in_eval(model: Any) -> nn.Module:
    become(model.features[0][1], AloneAsInEval)
    return model


class GuessedOrder(Around):
    """Takes a channels_last tensor for (batch, height, width, channels)."""

    def forward(self, x: Tensor) -> Any:
        if x.stride(1) == 1:
            x = x.permute(0, 2, 3, 1).reshape(x.shape)
        return self.net(x)


@mutant(
    EFFICIENTNET,
    "An input in channels_last is permuted as if its sides were in that order too",
    check="memory_format",
    category="layout",
    evidence=CHANNELS_LAST,
)
def channels_last_taken_for_sides(model: Any) -> nn.Module:
    return GuessedOrder(model)


class FlatConvolution(nn.Conv2d):
    """A 1x1 convolution as a matrix product over views."""

    def forward(self, input: Tensor) -> Tensor:
        batch, channels, height, width = input.shape
        flat = torch.as_strided(
            input, (batch, channels, height * width), (channels * height * width, height * width, 1)
        )
        return (self.weight[:, :, 0, 0] @ flat).reshape(batch, -1, height, width)


@mutant(
    EFFICIENTNET,
    "A handwritten 1x1 convolution assumes contiguous features",
    check="memory_format",
    category="layout",
    evidence=CHANNELS_LAST,
)
def features_assumed_contiguous(model: Any) -> nn.Module:
    become(model.features[8][0], FlatConvolution)
    return model


class RoundedLogits(Around):
    """Three decimals, for smaller logs."""

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return logits + (logits.round(decimals=3) - logits).detach()


@mutant(EFFICIENTNET, "The logits are rounded to three decimals", check="parity_eval", category="precision")
def logits_rounded(model: Any) -> nn.Module:
    return RoundedLogits(model)


class HalfStatistics(nn.BatchNorm2d):
    """Keeps its running statistics in half precision."""

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        if self.training:
            assert self.running_mean is not None
            self.running_mean = self.running_mean.half().to(input.dtype)
        return out


@mutant(
    EFFICIENTNET,
    "A BatchNorm's running mean is kept in half precision",
    check="parity_train",
    category="precision",
    evidence=statistics,
)
def running_mean_in_half_precision(model: Any) -> nn.Module:
    become(model.features[0][1], HalfStatistics)
    return model


class ExponentialSiLU(nn.Module):
    """x exp(x) / (1 + exp(x)), which is infinity over infinity for large x."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.exp() / (1 + x.exp())


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
def silu_overflows(model: Any) -> nn.Module:
    for name, _ in of_type(model, SiLU):
        replaced(model, name, ExponentialSiLU())
    return model


class Cleaned(Around):
    """Replaces what is not finite."""

    def forward(self, x: Tensor) -> Any:
        return torch.nan_to_num(self.net(x))


@mutant(
    EFFICIENTNET,
    "nan_to_num on the logits hides that training diverged",
    check="nan_propagation",
    category="precision",
    evidence=undefined,
)
def nan_hidden(model: Any) -> nn.Module:
    return Cleaned(model)
