"""Correct detectors in other forms than ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import FrozenBatchNorm2d

from harness.mutants.operators import forward_of
from harness.mutants.variant import become, correct, correct_instead
from reference.libraries.torchvision_detector import assembled
from suites.detector.model.faster_rcnn import Detector
from suites.detector.model.roi_heads import BoxHeads
from suites.detector.model.rpn import RPNHead
from suites.detector.model.validation import check_images, check_targets
from suites.detector.mutants.probe import DETECTOR


@correct(DETECTOR, "laterals first; upsampling by indexing")
@forward_of("fpn")
def laterals_first(self: Any, features: Sequence[Tensor]) -> list[Tensor]:
    rows = [layer(f) for f, layer in zip(features, self.laterals, strict=True)]
    for index in reversed(range(len(rows) - 1)):
        height, width = rows[index].shape[-2:]
        coarse = rows[index + 1]
        y = torch.arange(height) * coarse.shape[-2] // height
        x = torch.arange(width) * coarse.shape[-1] // width
        rows[index] = rows[index] + coarse[:, :, y][..., x]
    levels = [smooth(row) for smooth, row in zip(self.smoothings, rows, strict=True)]
    levels.append(self.p6(levels[-1]))
    return [*levels, self.p7(levels[-1].clamp(min=0))]


@correct(DETECTOR, "offsets before objectness")
@forward_of("rpn.head")
def offsets_first(self: Any, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    logits, offsets = [], []
    for level in levels:
        hidden = torch.relu(self.conv(level))
        moved = self.offsets(hidden)
        score, move = concat_box_prediction_layers([self.objectness(hidden)], [moved])
        logits.append(score.view(len(level), -1))
        offsets.append(move.view(len(level), -1, 4))
    return logits, offsets


class JoinedRPNHead(RPNHead):
    """One convolution for objectness and offsets."""

    both: nn.Conv2d

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, offsets = [], []
        for level in levels:
            both = self.both(torch.relu(self.conv(level))).movedim(1, -1)
            count = both.shape[-1] // 5
            logits.append(both[..., :count].flatten(1))
            offsets.append(both[..., count:].flatten(1).unflatten(1, (-1, 4)))
        return logits, offsets


class JoinedPredictor(BoxHeads):
    """One linear map for scores and offsets, class by class."""

    both: nn.Linear

    def predict(self, levels: Sequence[Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        hidden = self.pooled(levels[:3], proposals).flatten(1)
        both = self.both(torch.relu(self.fc2(torch.relu(self.fc1(hidden))))).unflatten(1, (-1, 5))
        return both[..., 0], both[..., 1:]


@correct(DETECTOR, "scores and offsets from one layer, in both stages")
def joined_heads(model: Any) -> nn.Module:
    head, boxes = model.rpn.head, model.roi_heads
    head.both = nn.Conv2d(head.conv.out_channels, 5 * model.rpn.anchors.per_cell, 1)
    nn.init.normal_(head.both.weight, std=0.01)
    boxes.both = nn.Linear(boxes.classes.in_features, 5 * boxes.classes.out_features)
    for module, kind in ((head, JoinedRPNHead), (boxes, JoinedPredictor)):
        become(module, kind)
        del module.offsets
    del head.objectness, boxes.classes
    return cast("nn.Module", model)


class Checked(nn.Module):
    """torchvision's detector behind a check of what it is given, and boxes that stay in float32."""

    def __init__(self, num_classes: int, **settings: Any) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.inner = assembled("detector_resnet18", num_classes, **settings)

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        check_images(images)
        if self.training:
            check_targets(targets, [(i.shape[1], i.shape[2]) for i in images], self.num_classes)
        with torch.autocast("cpu", enabled=False):
            return self.inner(list(images), targets)


@correct_instead(DETECTOR, "torchvision's Faster R-CNN behind our check of targets, without autocast")
def assembled_by_torchvision(
    num_classes: int = 91,
    *,
    width: int = 16,
    hidden: int = 32,
    min_size: int = 800,
    max_size: int = 1333,
    size_divisible: int = 32,
) -> nn.Module:
    return Checked(
        num_classes, width=width, hidden=hidden, min_size=min_size, max_size=max_size, size_divisible=size_divisible
    )


class Renamed(nn.Module):
    """Ours with other names, in another order."""

    def __init__(self, given: Detector) -> None:
        super().__init__()
        self.second_stage, self.first_stage, self.neck, self.trunk = (
            given.roi_heads,
            given.rpn,
            given.fpn,
            given.backbone,
        )
        self.prepare = given.transform
        self.whole = [given]  # in a list, so that it is no submodule

    def train(self, mode: bool = True) -> Renamed:
        super().train(mode)
        self.whole[0].train(mode)
        return self

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        return self.whole[0](images, targets)


@correct(DETECTOR, "other names, in another order")
def renamed(model: Any) -> nn.Module:
    return Renamed(model)


class Raw(nn.Module):
    """A linear map from raw parameters, its matrix (in, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.matrix = nn.Parameter(linear.weight.detach().T.clone())
        self.shift = nn.Parameter(linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,io->no", x, self.matrix) + self.shift


@correct(DETECTOR, "class and offset heads are raw parameters, stored as (in, out)")
def heads_of_raw_parameters(model: Any) -> nn.Module:
    model.roi_heads.classes, model.roi_heads.offsets = Raw(model.roi_heads.classes), Raw(model.roi_heads.offsets)
    return model


@correct(DETECTOR, "frozen norms are of a class of another name")
@forward_of(FrozenBatchNorm2d)
def frozen_norms_by_hand(self: Any, x: Tensor) -> Tensor:
    scale = self.weight / (self.running_var + self.eps).sqrt()
    return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]
