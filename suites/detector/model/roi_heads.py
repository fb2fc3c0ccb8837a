"""The second stage: class and box of each proposal, from RoIAlign features (Girshick 2015; He et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, roi_align

from suites.detector.model.anchors import STRIDES
from suites.detector.model.box_coder import BoxCoder
from suites.detector.model.losses import classification, localisation
from suites.detector.model.matcher import BACKGROUND, IGNORED, Matcher, Sampler

SIDE = 7
"""Cells of a proposal's features, in height and width."""
SMALLEST = 1e-2
"""Side in pixels under which a detection is dropped."""


def level_of(boxes: Tensor, levels: int) -> Tensor:
    """Which of P3 to P5 each box is read from: Lin et al. 2017, equation 1, with 224 pixels on P4."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(4 + torch.log2(sides / 224) + 1e-6)
    return level.clamp(3, 3 + levels - 1).long() - 3


class BoxHeads(nn.Module):
    """Two hidden layers, then ``num_classes`` logits (0 is background) and four offsets for each class."""

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        hidden: int = 1024,
        score: float = 0.05,
        overlap: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width * SIDE * SIDE, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.classes = nn.Linear(hidden, num_classes)
        self.offsets = nn.Linear(hidden, num_classes * 4)
        self.score, self.overlap, self.detections = score, overlap, detections
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = Matcher(foreground=0.5, background=0.5)
        self.sampler = Sampler(count=512, fraction=0.25)

    def forward(
        self,
        levels: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections per image in use; in training the losses, on sampled proposals and the annotated boxes."""
        if not self.training:
            logits, offsets = self.predict(levels, proposals)
            return self.detect(logits, offsets, proposals, sizes), {}
        assert targets is not None
        proposals, labels, wanted = self.sampled(proposals, targets)
        logits, offsets = self.predict(levels, proposals)
        positive = torch.where(labels > 0)[0]
        return [], {
            "loss_classifier": classification(logits, labels),
            "loss_box_reg": localisation(
                offsets[positive, labels[positive]], wanted[positive].to(offsets), len(labels)
            ),
        }

    def predict(self, levels: Sequence[Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(all proposals, classes) logits and (all proposals, classes, 4) offsets."""
        hidden = self.pooled(levels[:3], proposals).flatten(1)
        hidden = F.relu(self.fc2(F.relu(self.fc1(hidden))))
        return self.classes(hidden), self.offsets(hidden).unflatten(1, (-1, 4))

    def pooled(self, levels: Sequence[Tensor], proposals: Sequence[Tensor]) -> Tensor:
        """(all proposals, width, 7, 7), each read from the level that fits its size."""
        dtype = torch.promote_types(levels[0].dtype, torch.float32)  # a coordinate has 8 bits in bfloat16
        boxes = torch.cat(list(proposals)).to(dtype)
        image = torch.cat([boxes.new_full((len(p), 1), number) for number, p in enumerate(proposals)])
        rois = torch.cat([image, boxes], dim=1)
        which = level_of(torch.cat(list(proposals)), len(levels))
        pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], SIDE, SIDE)
        for number, (level, stride) in enumerate(zip(levels, STRIDES, strict=False)):
            place = torch.where(which == number)[0]
            aligned = roi_align(level.to(dtype), rois[place], SIDE, 1 / stride, sampling_ratio=2)
            pooled[place] = aligned.to(level.dtype)
        return pooled

    @torch.no_grad()
    def sampled(
        self, proposals: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Proposals that the loss looks at, their labels (0 is background), and the offsets they should have."""
        boxes_of, labels_of, wanted_of = [], [], []
        for proposed, target in zip(proposals, targets, strict=True):
            annotated = target["boxes"].to(proposed)
            candidates = torch.cat([proposed, annotated])  # so that there are positives from the first step on
            matches = self.matcher(box_iou(annotated, candidates))
            labels = torch.zeros_like(matches)
            matched = matches >= 0
            labels[matched] = target["labels"][matches[matched]]
            labels[matches == BACKGROUND] = 0
            labels[matches == IGNORED] = -1
            chosen = torch.cat(self.sampler(labels)).sort().values
            candidates, labels, matches = candidates[chosen], labels[chosen], matches[chosen]
            wanted = torch.zeros_like(candidates)
            positive = labels > 0
            wanted[positive] = self.coder.encode(annotated[matches[positive]], candidates[positive])
            boxes_of.append(candidates)
            labels_of.append(labels)
            wanted_of.append(wanted)
        return boxes_of, torch.cat(labels_of), torch.cat(wanted_of)

    def detect(
        self, logits: Tensor, offsets: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Per image ``boxes`` (n, 4), ``labels`` (n,) from 1 and ``scores`` (n,), best first."""
        counts = [len(p) for p in proposals]
        boxes = self.coder.decode(offsets, torch.cat(list(proposals))[:, None])
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
        return [
            self._best(b, s, size) for b, s, size in zip(boxes.split(counts), scores.split(counts), sizes, strict=True)
        ]

    def _best(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        boxes = clip_boxes_to_image(boxes, size)[:, 1:]
        scores = scores[:, 1:]
        labels = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(scores)
        keep = (scores > self.score) & (boxes[..., 2:] - boxes[..., :2] >= SMALLEST).all(-1)
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        best = batched_nms(boxes, scores, labels, self.overlap)[: self.detections]
        return {"boxes": boxes[best], "labels": labels[best], "scores": scores[best]}
