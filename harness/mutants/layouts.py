"""Networks that are right for one layout in memory only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.evidence import Evidence, Pair, difference, forward
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12
from harness.mutants.surgery import Around, become, replaced


def laid_out(layout: torch.memory_format) -> Evidence:
    """Evidence: the difference for images in another memory format; one where only the faulty network refuses them."""

    def measure(pair: Pair) -> float:
        correct, faulty = pair.filled()
        correct, faulty = correct.float(), faulty.float()
        images = pair.images().float().contiguous(memory_format=layout)
        expected = forward(correct, images)
        try:
            return difference(forward(faulty, images), expected)
        except RuntimeError:
            return 1.0

    return measure


CHANNELS_LAST = laid_out(torch.channels_last)


class AssumedStrides(Around):
    """Reads memory as if it were contiguous."""

    def forward(self, x: Tensor) -> Any:
        _, channels, height, width = x.shape
        strides = (channels * height * width, height * width, width, 1)
        return self.net(x.as_strided(x.shape, strides))


@mutant(
    RESNET12,
    "as_strided with the strides of a contiguous input scrambles every other layout",
    check="memory_format",
    category="layout",
    evidence=CHANNELS_LAST,
)
def strides_assumed(model: Any) -> nn.Module:
    return AssumedStrides(model)


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


class ViewPool(nn.Module):
    """Flattens each sample with a view, then pools."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1).view(len(x), x.shape[1], -1).mean(-1)


@mutant(
    RESNET12,
    "view() on features raises where the backend keeps them in channels_last, which it does in float32",
    check="memory_format",
    category="layout",
    evidence=CHANNELS_LAST,
)
def view_of_channels_last_features(model: Any) -> nn.Module:
    return replaced(model, "pool", ViewPool())


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
