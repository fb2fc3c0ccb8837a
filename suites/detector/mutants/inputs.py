"""Detectors that mistreat what the caller gives: images, targets, and the keywords of freezing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.operators import forward_of
from harness.mutants.probe import Evidence, Pair, difference
from harness.mutants.variant import become, instead, mutant
from suites.detector.model.box_coder import BoxCoder
from suites.detector.model.faster_rcnn import Detector
from suites.detector.model.transform import rescaled
from suites.detector.mutants import probe as evidence
from suites.detector.mutants.probe import DETECTOR, small_detector

Targets = Sequence[dict[str, Tensor]] | None


def _target(boxes: list[list[float]]) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes, dtype=torch.float64), "labels": torch.ones(len(boxes), dtype=torch.int64)}


def _small_image(pair: Pair) -> float:
    """Of any loss for an image that is enlarged."""
    outs = []
    for model in evidence.pair_of(pair):
        torch.manual_seed(0)
        outs.append(model.train()([evidence.images()[0][:, :16, :32]], [_target([[2.0, 2.0, 14.0, 7.0]])]))
    return max(difference(outs[1][k].detach(), v.detach()) for k, v in outs[0].items())


@mutant(
    DETECTOR,
    "In training annotated boxes stay in the coordinates of the image as it was before it was resized",
    check="parity_losses",
    category="training",
    evidence=_small_image,
)
@forward_of()
def targets_not_rescaled(self: Any, images: Sequence[Tensor], targets: Targets = None) -> Any:
    if not self.training or targets is None:
        return Detector.forward(self, images, targets)
    _, sizes = self.transform(images)
    given = [(image.shape[1], image.shape[2]) for image in images]
    kept = [{**t, "boxes": rescaled(t["boxes"], size, own)} for t, size, own in zip(targets, sizes, given, strict=True)]
    return Detector.forward(self, images, kept)


def _left_behind(pair: Pair) -> float:
    """Of what the caller's list and target hold after a training pass."""
    _, faulty = evidence.pair_of(pair)
    images, target = [evidence.images()[0][:, :16, :32]], _target([[2.0, 2.0, 14.0, 7.0]])
    before = images[0].clone(), target["boxes"].clone()
    faulty.train()(images, [target])
    return max(difference(images[0], before[0]), difference(target["boxes"], before[1]))


@mutant(
    DETECTOR,
    "The caller's targets hold the scaled boxes afterwards: a second epoch trains on others",
    check="detector_shapes",
    category="state",
    evidence=_left_behind,
)
@forward_of()
def targets_overwritten(self: Any, images: Sequence[Tensor], targets: Targets = None) -> Any:
    """Leaves the scaled boxes in the caller's targets, as early torchvision did."""
    found = Detector.forward(self, images, targets)
    _, sizes = self.transform(images)
    for target, image, size in zip(targets or (), images, sizes, strict=False):
        target["boxes"] = rescaled(target["boxes"], (image.shape[1], image.shape[2]), size)
    return found


@mutant(
    DETECTOR,
    "The caller's list holds other images afterwards",
    check="detector_shapes",
    category="state",
    evidence=_left_behind,
)
@forward_of()
def images_overwritten(self: Any, images: Sequence[Tensor], targets: Targets = None) -> Any:
    found = Detector.forward(self, list(images), targets)
    if isinstance(images, list):
        images[:] = [image - 0.5 for image in images]
    return found


@dataclass(frozen=True)
class Uncut(BoxCoder):
    """Does not cut the log-scaled height (or neither)."""

    axes: tuple[int, ...] = (3,)

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        boxes = super().decode(offsets, anchors)
        for axis in self.axes:
            first, side = axis - 2, anchors[..., axis] - anchors[..., axis - 2]
            centre = (boxes[..., first] + boxes[..., axis]) / 2
            half = 0.5 * torch.exp(offsets[..., axis] / self.weights[axis]) * side
            boxes[..., first], boxes[..., axis] = centre - half, centre + half
        return boxes


def _decoded(part: str) -> Evidence:
    anchors = torch.tensor([[10.0, 10.0, 30.0, 20.0]], dtype=torch.float64)
    offsets = torch.full((1, 4), 30.0, dtype=torch.float64)
    return evidence.both(lambda model: model.get_submodule(part).coder.decode(offsets, anchors))


@mutant(
    DETECTOR,
    "The first stage's log-scaled sizes are not cut",
    check="parity_large_offsets",
    evidence=_decoded("rpn"),
)
def first_stage_uncut(model: Any) -> nn.Module:
    model.rpn.coder = Uncut(model.rpn.coder.weights, (2, 3))
    return model


@mutant(
    DETECTOR,
    "The second stage cuts the log-scaled width, and not the height",
    check="parity_large_offsets",
    evidence=_decoded("roi_heads"),
)
def height_uncut(model: Any) -> nn.Module:
    model.roi_heads.coder = Uncut(model.roi_heads.coder.weights, (3,))
    return model


class LooksAtWidths(Detector):
    """Makes boxes of no or negative height acceptable."""

    def forward(self, images: Sequence[Tensor], targets: Targets = None) -> Any:
        if targets is not None:
            targets = [{**t, "boxes": torch.cat((t["boxes"][:, :3], self.lower(t["boxes"])), 1)} for t in targets]
        return super().forward(images, targets)

    def lower(self, boxes: Tensor) -> Tensor:
        """y2, below y1."""
        return torch.maximum(boxes[:, 3:], boxes[:, 1:2] + 1)


@mutant(
    DETECTOR,
    "Only the width of annotated boxes is looked at: no height, or a negative one, is trained on",
    check="degenerate_targets",
    category="training",
    evidence=evidence.accepts([[10.0, 10.0, 20.0, 10.0]]),
)
def heights_not_looked_at(model: Any) -> nn.Module:
    return become(model, LooksAtWidths)


def _one_for_two(pair: Pair) -> float:
    _, faulty = evidence.pair_of(pair)
    return float(len(faulty.train()(evidence.images(), [_target([[2.0, 3.0, 40.0, 28.0]])])))


@mutant(
    DETECTOR,
    "With fewer targets than images the rest is trained on as empty",
    check="wrong_targets",
    category="training",
    evidence=_one_for_two,
)
@forward_of()
def fewer_targets_taken(self: Any, images: Sequence[Tensor], targets: Targets = None) -> Any:
    if targets is not None:
        empty = {"boxes": torch.zeros(0, 4, dtype=images[0].dtype), "labels": torch.zeros(0, dtype=torch.int64)}
        targets = [*targets, *[empty] * (len(images) - len(targets))]
    return Detector.forward(self, images, targets)


def _beside_nan(pair: Pair) -> float:
    _, faulty = evidence.pair_of(pair)
    clean = evidence.images()[0]
    with torch.no_grad():
        alone = faulty.eval()([clean])[0]["boxes"]
        beside = faulty([clean, torch.full_like(clean, torch.nan)])[0]["boxes"]
    return float(abs(len(alone) - len(beside)))


@mutant(
    DETECTOR,
    "One image of NaN empties the detections of all others in the batch",
    check="non_finite_images",
    category="batch",
    evidence=_beside_nan,
)
@forward_of()
def emptied_by_another_image(self: Any, images: Sequence[Tensor], targets: Targets = None) -> Any:
    found: Any = Detector.forward(self, images, targets)
    if self.training or all(bool(image.isfinite().all()) for image in images):
        return found
    return [{key: value[:0] for key, value in one.items()} for one in found]


def _stem_learns(pair: Pair) -> float:
    """One where the faulty detector's first convolution learns and the correct one's does not."""
    learns = []
    for build in (pair.correct, pair.faulty):
        model = build(evidence.CLASSES, trainable=2)
        learns.append(next(p.requires_grad for p in model.parameters() if p.ndim == 4 and p.shape[1] == 3))
    return float(learns == [False, True])


@instead(
    DETECTOR,
    "``trainable`` freezes the last parts of the backbone, not the first",
    check="frozen_stages",
    evidence=_stem_learns,
)
def frozen_from_the_end(num_classes: int = 91, *, trainable: int = 5, **settings: Any) -> nn.Module:
    model = small_detector(num_classes, **settings)
    for part in [model.backbone.stem, *model.backbone.stages][trainable:]:
        part.requires_grad_(False)
    return model


def _learning_norms(pair: Pair) -> float:
    counts = [
        sum(isinstance(m, nn.BatchNorm2d) for m in build(evidence.CLASSES, norm="frozen").modules())
        for build in (pair.correct, pair.faulty)
    ]
    return float(counts[1] - counts[0])


@instead(
    DETECTOR,
    "norm='frozen' freezes the first norm only",
    check="frozen_norm",
    category="training",
    evidence=_learning_norms,
)
def first_norm_frozen(num_classes: int = 91, *, norm: str = "batch", **settings: Any) -> nn.Module:
    model = small_detector(num_classes, norm="batch", **settings)
    if norm == "frozen":
        frozen = small_detector(num_classes, norm="frozen", **settings)
        name = next(n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))
        model.set_submodule(name, frozen.get_submodule(name))
    return model


class LossesForTargets(Detector):
    """Goes by whether there are targets, not by the mode."""

    def forward(self, images: Sequence[Tensor], targets: Targets = None) -> Any:
        training = self.training
        answer: Any = super().forward(images, targets) if targets is None else self.train()._losses(images, targets)
        self.train(training)
        return answer

    def _losses(self, images: Sequence[Tensor], targets: Targets) -> Any:
        return super().forward(images, targets)


def _asked_with_targets(pair: Pair) -> float:
    """One where a call in eval mode with targets gives no list."""
    _, faulty = evidence.pair_of(pair)
    targets = [_target([[2.0, 3.0, 40.0, 28.0]])] * 2
    return float(not isinstance(faulty.eval()(evidence.images(), targets), list))


@mutant(
    DETECTOR,
    "In eval mode, where targets are given, losses come for detections",
    check="detector_interface",
    category="state",
    evidence=_asked_with_targets,
)
def losses_where_there_are_targets(model: Any) -> nn.Module:
    return become(model, LossesForTargets)
