"""Networks that train wrongly under one condition only: a batch size, a layout, autocast, a large start."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import Pair, difference, forward, gradients
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12, RESNET17
from harness.mutants.surgery import Around, become, of_type
from suites.resnet.model import BasicBlock, ResNet


def _trained_at(batch: int) -> Any:
    def evidence(pair: Pair) -> float:
        correct, faulty = pair.filled()
        images = pair.images(batch)
        return difference(forward(faulty.train(), images), forward(correct.train(), images))

    return evidence


class Ghosts(nn.BatchNorm2d):
    """Takes its statistics over eight samples at a time."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or len(input) <= 8:
            return super().forward(input)
        return torch.cat([super(Ghosts, self).forward(part) for part in input.split(8)])


@mutant(
    RESNET12,
    "Training batches of more than eight are normalised eight at a time",
    check="parity_train",
    category="batch",
    evidence=_trained_at(16),
)
def ghost_batches(model: Any) -> nn.Module:
    become(model.stem[1], Ghosts)
    return model


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
    evidence=_trained_at(1),
)
def single_image_as_in_eval(model: Any) -> nn.Module:
    become(model.features[0][1], AloneAsInEval)
    return model


def _stem_gradient(pair: Pair, *, layout: torch.memory_format, autocast: bool) -> float:
    faulty = pair.filled()[1].float().train()
    images = pair.images().float().contiguous(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        faulty(images).float().sum().backward()
    return float(next(faulty.parameters()).grad is None)


class CutInChannelsLast(Around):
    """Records nothing of its first half in train mode where the images are channels_last."""

    net: ResNet

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.training and x.stride(1) == 1)):
            x = self.net.stem(x)
        return self.net.head(self.net.pool(self.net.stages(x)).flatten(1))


@mutant(
    RESNET12,
    "In train mode the stem gets no gradient where images are channels_last",
    check="memory_format",
    category="layout",
    evidence=lambda pair: _stem_gradient(pair, layout=torch.channels_last, autocast=False),
)
def cut_in_channels_last(model: Any) -> nn.Module:
    return CutInChannelsLast(model)


def _largest_change(pair: Pair, shape: tuple[int, int, int, int]) -> float:
    """Of any gradient in train mode on images of ``shape``; one where it is missing."""
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, got = (gradients(model.train(), images) for model in pair.filled())
    return max(difference(got[n], e) if n in got else 1.0 for n, e in expected.items() if float(e.norm()) > 0)


class CutOnLargeImages(Around):
    """Detaches the stem's output in train mode where images are large, to save memory."""

    net: ResNet

    def forward(self, x: Tensor) -> Tensor:
        large = self.training and x.shape[-1] >= 128
        x = self.net.stem(x)
        x = x.detach() if large else x
        return self.net.head(self.net.pool(self.net.stages(x)).flatten(1))


@mutant(
    RESNET12,
    "In train mode the stem gets no gradient where images have 128 pixels and more",
    check="gradients",
    category="size",
    evidence=lambda pair: _largest_change(pair, (2, 3, 128, 128)),
)
def cut_on_large_images(model: Any) -> nn.Module:
    return CutOnLargeImages(model)


class CutInLargeBatches(BasicBlock):
    """Its shortcut is detached where the batch is large."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x.detach() if len(x) > 24 else x))


@mutant(
    RESNET12,
    "A shortcut is detached in batches of more than 24 images",
    check="gradients",
    category="batch",
    evidence=lambda pair: _largest_change(pair, (25, 3, 32, 32)),
)
def cut_in_large_batches(model: Any) -> nn.Module:
    become(next(block for _, block in of_type(model, BasicBlock)), CutInLargeBatches)
    return model


class CutUnderAutocast(Around):
    """Detaches the stem's output under autocast."""

    net: ResNet

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.stem(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.detach()
        return self.net.head(self.net.pool(self.net.stages(x)).flatten(1))


@mutant(
    RESNET17,
    "Under autocast the stem's output is detached, as a cast through .data does it",
    check="parity_bfloat16",
    category="gradient",
    evidence=lambda pair: _stem_gradient(pair, layout=torch.contiguous_format, autocast=True),
)
def cut_under_autocast(model: Any) -> nn.Module:
    return CutUnderAutocast(model)


def _first_deviation(model: nn.Module) -> float:
    return float(next(model.parameters()).detach().std())


@mutant(
    RESNET12,
    "Convolutions start at deviation one, which BatchNorm hides: steps of a usual size hardly turn them",
    check="initialisation",
    category="initialisation",
    evidence=lambda pair: abs(_first_deviation(pair.faulty(10)) / _first_deviation(pair.correct(10)) - 1),
)
def convolutions_start_at_deviation_one(model: Any) -> nn.Module:
    for _, conv in of_type(model, nn.Conv2d):
        nn.init.normal_(conv.weight)
    return model
