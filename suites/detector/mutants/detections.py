"""Detectors that suppress, clip, label or rescale wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from harness.mutants.operators import forward_of, method_of
from harness.mutants.variant import become, mutant
from suites.detector.model.faster_rcnn import Detector
from suites.detector.model.roi_heads import SMALLEST, BoxHeads
from suites.detector.model.rpn import RegionProposals
from suites.detector.mutants.probe import DETECTOR, PADDED, detections, images

Targets = Sequence[dict[str, Tensor]]


@mutant(
    DETECTOR, "Proposals of different levels suppress one another", check="parity_detections", evidence=detections()
)
@method_of("_suppressed", "rpn")
def levels_suppressed_together(
    self: Any, boxes: Tensor, scores: Tensor, level: Tensor, size: tuple[int, int]
) -> Tensor:
    return RegionProposals._suppressed(self, boxes, scores, torch.zeros_like(level), size)


@mutant(DETECTOR, "Classes are off by one, the last is background", check="parity_detections", evidence=detections())
@method_of("detect", "roi_heads")
def background_off_by_one(
    self: Any, logits: Tensor, offsets: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    return BoxHeads.detect(self, logits.roll(1, dims=1), offsets.roll(1, dims=1), proposals, sizes)


@mutant(DETECTOR, "Labels are counted from 0", check="detector_interface", evidence=detections())
@method_of("detect", "roi_heads")
def labels_from_zero(
    self: Any, logits: Tensor, offsets: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    found = BoxHeads.detect(self, logits, offsets, proposals, sizes)
    return [{**f, "labels": f["labels"] - 1} for f in found]


class Suppressing(BoxHeads):
    """May leave out the clipping, or the class."""

    clipped, per_class = True, True

    def _best(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        boxes = (clip_boxes_to_image(boxes, size) if self.clipped else boxes)[:, 1:]
        scores = scores[:, 1:]
        labels = torch.arange(1, scores.shape[1] + 1).expand_as(scores)
        keep = (scores > self.score) & (boxes[..., 2:] - boxes[..., :2] >= SMALLEST).all(-1)
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        groups = labels if self.per_class else torch.zeros_like(labels)
        chosen = batched_nms(boxes, scores, groups, self.overlap)
        best = chosen[: self.detections]
        return {"boxes": boxes[best], "labels": labels[best], "scores": scores[best]}


@mutant(
    DETECTOR,
    "Suppression does not look at the class",
    check="per_class_suppression",
    evidence=detections(),
)
def class_agnostic_suppression(model: Any) -> nn.Module:
    become(model.roi_heads, Suppressing)
    model.roi_heads.per_class = False
    return model


@mutant(DETECTOR, "Detections are not clipped to the image", check="detector_interface", evidence=detections())
def not_clipped(model: Any) -> nn.Module:
    become(model.roi_heads, Suppressing)
    model.roi_heads.clipped = False
    return model


@mutant(
    DETECTOR,
    "Boxes are left in the resized image's coordinates",
    check="rescaled_boxes",
    evidence=detections(200, 32, lambda: images(75, 150)),
)
@forward_of()
def not_rescaled(self: Any, images: Sequence[Tensor], targets: Targets | None = None) -> Any:
    found = Detector.forward(self, images, targets)
    if isinstance(found, dict):
        return found
    _, sizes = self.transform(images)
    return [{**f, "boxes": f["boxes"] * (s[0] / i.shape[1])} for f, s, i in zip(found, sizes, images, strict=True)]


@mutant(
    DETECTOR,
    "Boxes are scaled back with the axes' ratios exchanged",
    check="parity_anchors",
    evidence=detections(200, 32, lambda: images(75, 161)),
)
@forward_of()
def axes_exchanged(self: Any, images: Sequence[Tensor], targets: Targets | None = None) -> Any:
    found = Detector.forward(self, images, targets)
    if isinstance(found, dict):
        return found
    _, sizes = self.transform(images)
    scales = [(s[0] / i.shape[1]) / (s[1] / i.shape[2]) for s, i in zip(sizes, images, strict=True)]
    ratios = [torch.tensor([1 / r, r, 1 / r, r], dtype=torch.float64) for r in scales]
    return [{**f, "boxes": f["boxes"] * r} for f, r in zip(found, ratios, strict=True)]


@mutant(
    DETECTOR,
    "All images of a batch are clipped to the first one's size",
    check="parity_anchors",
    category="batch",
    evidence=PADDED,
)
@method_of("detect", "roi_heads")
def clipped_to_the_first(
    self: Any, logits: Tensor, offsets: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    return BoxHeads.detect(self, logits, offsets, proposals, [sizes[0]] * len(sizes))
