"""Detectors that match, sample, weigh, refuse or freeze wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d, clip_boxes_to_image

from harness.mutants.operators import forward_of, method_of
from harness.mutants.probe import Pair
from harness.mutants.variant import mutant
from suites.detector.model.faster_rcnn import Detector
from suites.detector.model.losses import localisation
from suites.detector.model.matcher import BACKGROUND, IGNORED, Matcher
from suites.detector.model.roi_heads import BoxHeads
from suites.detector.model.rpn import RegionProposals
from suites.detector.model.transform import rescaled
from suites.detector.mutants import probe as evidence
from suites.detector.mutants.probe import DETECTOR, losses

Targets = Sequence[dict[str, Tensor]]


class Exclusive(Matcher):
    """Above the threshold only."""

    def __call__(self, overlaps: Tensor) -> Tensor:
        matches = super().__call__(overlaps)
        best = overlaps.max(dim=0).values if len(overlaps) else overlaps.new_zeros(overlaps.shape[1])
        kept = best == self.foreground
        if self.force and len(overlaps):
            kept &= ~(overlaps == overlaps.amax(dim=1, keepdim=True)).any(dim=0)
        return torch.where(kept, IGNORED if self.background < self.foreground else BACKGROUND, matches)


def _exact_matches(pair: Pair) -> float:
    """Of what becomes of anchors that overlap a box by exactly a threshold."""
    overlaps = torch.tensor([[0.9, 0.7, 0.5, 0.3, 0.1]], dtype=torch.float64)
    ours, theirs = (m.rpn.matcher(overlaps) for m in evidence.pair_of(pair))  # type: ignore[union-attr,operator]
    return float((ours - theirs).abs().max())


@mutant(
    DETECTOR,
    "An overlap of exactly the threshold is not matched",
    check="parity_thresholds",
    category="training",
    evidence=_exact_matches,
)
def exclusive_threshold(model: Any) -> nn.Module:
    model.rpn.matcher = Exclusive(foreground=0.7, background=0.3, force=True)
    return model


class InclusiveBackground(Matcher):
    """Background up to the threshold."""

    def __call__(self, overlaps: Tensor) -> Tensor:
        matches = super().__call__(overlaps)
        if len(overlaps) == 0:
            return matches
        return torch.where((overlaps.amax(dim=0) == self.background) & (matches == IGNORED), BACKGROUND, matches)


@mutant(
    DETECTOR,
    "An overlap of exactly the lower threshold is background",
    check="parity_thresholds",
    category="training",
    evidence=_exact_matches,
)
def inclusive_background(model: Any) -> nn.Module:
    model.rpn.matcher = InclusiveBackground(foreground=0.7, background=0.3, force=True)
    return model


@mutant(
    DETECTOR,
    "The proposals' box loss is the mean over positives, not over all sampled anchors",
    check="parity_losses",
    category="training",
    evidence=losses,
)
@method_of("losses", "rpn")
def box_loss_over_positives(
    self: Any, logits: Tensor, offsets: Tensor, anchors: Tensor, targets: Targets
) -> dict[str, Tensor]:
    found = RegionProposals.losses(self, logits, offsets, anchors, targets)
    return {**found, "loss_rpn_box_reg": found["loss_rpn_box_reg"] * 5}


@mutant(
    DETECTOR,
    "Annotated boxes are not among the second stage's candidates",
    check="parity_losses",
    category="training",
    evidence=losses,
)
@method_of("sampled", "roi_heads")
def annotated_not_added(
    self: Any, proposals: Sequence[Tensor], targets: Targets
) -> tuple[list[Tensor], Tensor, Tensor]:
    boxes, labels, wanted = BoxHeads.sampled(self, proposals, targets)
    same = torch.cat(
        [(b[:, None] == t["boxes"].to(b)[None]).all(-1).any(1) for b, t in zip(boxes, targets, strict=True)]
    )
    counts = [len(b) for b in boxes]
    kept = [b[~s] for b, s in zip(boxes, same.split(counts), strict=True)]
    return kept, labels[~same], wanted[~same]


@mutant(
    DETECTOR,
    "The box loss looks at the first class's offsets, whatever the label",
    check="parity_losses",
    category="training",
    evidence=losses,
)
@forward_of("roi_heads")
def offsets_of_one_class(
    self: Any,
    levels: Sequence[Tensor],
    proposals: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    targets: Targets | None = None,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    if targets is None:
        return BoxHeads.forward(self, levels, proposals, sizes)
    proposals, labels, wanted = self.sampled(proposals, targets)
    logits, offsets = self.predict(levels, proposals)
    positive = torch.where(labels > 0)[0]
    return [], {
        "loss_classifier": F.cross_entropy(logits, labels),
        "loss_box_reg": localisation(offsets[positive, 1], wanted[positive], len(labels)),
    }


@mutant(
    DETECTOR,
    "Without annotated boxes the box head is left without a gradient, which distributed training waits for",
    check="images_without_boxes",
    category="gradient",
    evidence=evidence.loss_gradients,
)
@forward_of("roi_heads")
def head_left_out(
    self: Any,
    levels: Sequence[Tensor],
    proposals: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    targets: Targets | None = None,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    found, values = BoxHeads.forward(self, levels, proposals, sizes, targets)
    if targets is not None and not any(len(t["boxes"]) for t in targets):
        values["loss_box_reg"] = values["loss_box_reg"].detach()
    return found, values


@mutant(
    DETECTOR,
    "Targets that make no sense are trained on",
    check="wrong_targets",
    category="training",
    evidence=evidence.accepts([[2.0, 3.0, 40.0, 28.0]], -1),
)
@forward_of()
def targets_not_checked(self: Any, images: Sequence[Tensor], targets: Targets | None = None) -> Any:
    if targets is None:
        return Detector.forward(self, images)
    repaired = []
    for image, target in zip(images, targets, strict=True):
        boxes = clip_boxes_to_image(target["boxes"].nan_to_num(), (image.shape[1], image.shape[2]))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        labels = target["labels"].clamp(1, self.num_classes - 1)
        repaired.append({"boxes": boxes[kept], "labels": labels[kept]})
    return Detector.forward(self, images, repaired)


@mutant(
    DETECTOR,
    "Boxes without width are left out without a word",
    check="degenerate_targets",
    category="training",
    evidence=evidence.accepts([[2.0, 3.0, 2.0, 28.0]]),
)
@forward_of()
def degenerate_left_out(self: Any, images: Sequence[Tensor], targets: Targets | None = None) -> Any:
    if targets is None:
        return Detector.forward(self, images)
    kept = [(t["boxes"][:, 2:] > t["boxes"][:, :2]).all(1) for t in targets]
    given = [{k: t[k][keep] for k in ("boxes", "labels")} for t, keep in zip(targets, kept, strict=True)]
    return Detector.forward(self, images, given)


def _refuses_one_box(pair: Pair) -> float:
    """One where the faulty detector can't train on an image with one box."""
    _, faulty = evidence.pair_of(pair)
    try:
        evidence.losses_of(faulty, evidence.BOXES[:1])
    except (ValueError, IndexError, RuntimeError):
        return 1.0
    return 0.0


def _moves_targets(pair: Pair) -> float:
    """Of the boxes that were given, after a step on images that are resized."""
    _, faulty = evidence.pair_of(pair)
    boxes = torch.tensor(evidence.BOXES, dtype=torch.float64)
    target = {"boxes": boxes.clone(), "labels": torch.arange(1, 4)}
    faulty.train()(evidence.images(48, 96), [target, {n: t.clone() for n, t in target.items()}])
    return float((target["boxes"] - boxes).abs().max())


@mutant(
    DETECTOR,
    "An image with a single box can't be trained on",
    check="detector_shapes",
    category="size",
    evidence=_refuses_one_box,
)
@forward_of()
def single_box_squeezed(self: Any, images: Sequence[Tensor], targets: Targets | None = None) -> Any:
    if targets is None:
        return Detector.forward(self, images)
    return Detector.forward(self, images, [{**t, "boxes": t["boxes"].squeeze(0)} for t in targets])


@mutant(
    DETECTOR,
    "Annotated boxes are scaled in place, so that a second epoch sees others",
    check="detector_shapes",
    category="state",
    evidence=_moves_targets,
)
@forward_of()
def targets_scaled_in_place(self: Any, images: Sequence[Tensor], targets: Targets | None = None) -> Any:
    found = Detector.forward(self, images, targets)
    if targets is not None:
        _, sizes = self.transform(images)
        for target, image, size in zip(targets, images, sizes, strict=True):
            target["boxes"].copy_(rescaled(target["boxes"], (image.shape[1], image.shape[2]), size))
    return found


def _drift(pair: Pair) -> float:
    """Of any buffer of frozen stages after a step in train mode."""
    changes = []
    for build in (pair.correct, pair.faulty):
        model = build(evidence.CLASSES, min_size=32, max_size=64, trainable=2).double()
        before = model.backbone.stem[1].running_mean.clone()
        evidence.losses_of(model, evidence.BOXES)
        changes.append(float((model.backbone.stem[1].running_mean - before).norm()))
    return abs(changes[1] - changes[0])


@mutant(
    DETECTOR,
    "Running statistics of frozen stages follow the new data",
    check="frozen_stages",
    category="training",
    evidence=_drift,
)
@method_of("held", "backbone")
def frozen_statistics_drift(self: Any) -> list[nn.Module]:
    return []


def _frozen_detections(pair: Pair) -> float:
    """Of the frozen norms' eps."""
    found = [
        next(m for m in build(evidence.CLASSES, norm="frozen").modules() if isinstance(m, FrozenBatchNorm2d)).eps
        for build in (pair.correct, pair.faulty)
    ]
    return abs(found[1] - found[0])


@mutant(
    DETECTOR,
    "Frozen BatchNorm has no eps",
    check="frozen_norm",
    evidence=_frozen_detections,
)
def frozen_norm_without_eps(model: Any) -> nn.Module:
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    return model
