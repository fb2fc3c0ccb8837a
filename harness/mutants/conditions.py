"""Networks that train wrongly under one condition only: a batch size, a layout, autocast, a large start."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import Pair, difference, forward, train_gradient
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
    """Takes its statistics over 32 samples at a time."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or len(input) <= 32:
            return super().forward(input)
        return torch.cat([super(Ghosts, self).forward(part) for part in input.split(32)])


@mutant(
    RESNET12,
    "Training batches of more than 32 are normalised 32 at a time",
    check="parity_train",
    category="batch",
    evidence=_trained_at(40),
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


class CutStem(Around):
    """Detaches the stem's output under one condition."""

    net: ResNet

    def cut(self, images: Tensor) -> bool:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        features = self.net.stem(x)
        features = features.detach() if self.cut(x) else features
        return self.net.head(self.net.pool(self.net.stages(features)).flatten(1))


class CutInChannelsLast(CutStem):
    """In train mode, where the images are channels_last."""

    def cut(self, images: Tensor) -> bool:
        return self.training and images.stride(1) == 1


@mutant(
    RESNET12,
    "In train mode the stem gets no gradient where images are channels_last",
    check="memory_format",
    category="layout",
    evidence=lambda pair: _stem_gradient(pair, layout=torch.channels_last, autocast=False),
)
def cut_in_channels_last(model: Any) -> nn.Module:
    return CutInChannelsLast(model)


class CutOnLargeImages(CutStem):
    """In train mode, where the images are large."""

    def cut(self, images: Tensor) -> bool:
        return self.training and images.shape[-1] >= 128


@mutant(
    RESNET12,
    "In train mode the stem gets no gradient where images have 128 pixels and more",
    check="gradients",
    category="size",
    evidence=lambda pair: train_gradient(pair, (2, 3, 128, 128)),
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
    "The shortcuts are detached in batches of more than 24 images",
    check="gradients",
    category="batch",
    evidence=lambda pair: train_gradient(pair, (25, 3, 32, 32)),
)
def cut_in_large_batches(model: Any) -> nn.Module:
    for _, block in of_type(model, BasicBlock):
        become(block, CutInLargeBatches)
    return model


@mutant(
    RESNET12,
    "One shortcut's projection gets no image in batches of more than 24",
    check="gradients",
    category="batch",
    evidence=lambda pair: train_gradient(pair, (25, 3, 32, 32)),
)
def projection_cut_in_large_batches(model: Any) -> nn.Module:
    become(of_type(model, BasicBlock)[-1][1], CutInLargeBatches)
    return model


class CutUnderAutocast(CutStem):
    """Under autocast."""

    def cut(self, images: Tensor) -> bool:
        return torch.is_autocast_enabled("cpu")


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
