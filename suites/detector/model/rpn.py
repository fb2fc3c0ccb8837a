"""Region proposals (Ren et al. 2015, arXiv:1506.01497)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from suites.detector.model.anchors import AnchorGenerator
from suites.detector.model.box_coder import BoxCoder
from suites.detector.model.losses import localisation, objectness
from suites.detector.model.matcher import IGNORED, Matcher, Sampler

SMALLEST = 1e-3
"""Side in pixels under which a proposal is dropped."""


class RPNHead(nn.Module):
    """One 3x3 convolution, then objectness and box offsets of each anchor; the same weights on every level."""

    def __init__(self, width: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.objectness = nn.Conv2d(width, anchors, 1)
        self.offsets = nn.Conv2d(width, anchors * 4, 1)
        for layer in (self.conv, self.objectness, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level: (batch, anchors of the level) logits and (batch, anchors of the level, 4) offsets."""
        logits, offsets = [], []
        for level in levels:
            hidden = F.relu(self.conv(level))
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            offsets.append(self.offsets(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return logits, offsets


@dataclass(frozen=True, kw_only=True)
class ProposalCounts:
    """Kept per level before suppression, and per image after it, in training and in use."""

    before_train: int = 2000
    before: int = 1000
    after_train: int = 2000
    after: int = 1000


class RegionProposals(nn.Module):
    """The head, its anchors, and what is made of them: proposals, and in training two losses."""

    def __init__(self, width: int, anchors: AnchorGenerator, counts: ProposalCounts | None = None) -> None:
        super().__init__()
        self.anchors = anchors
        self.head = RPNHead(width, anchors.per_cell)
        self.counts = counts or ProposalCounts()
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(foreground=0.7, background=0.3, force=True)
        self.sampler = Sampler(count=256, fraction=0.5)
        self.overlap = 0.7

    def forward(
        self,
        levels: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """(n, 4) proposals per image, inside its ``sizes`` (height, width), best first; losses where training."""
        logits, offsets = self.head(levels)
        anchors = self.anchors(levels)
        proposals = self.proposals(logits, offsets, anchors, sizes)
        if not self.training:
            return proposals, {}
        assert targets is not None
        return proposals, self.losses(torch.cat(logits, 1), torch.cat(offsets, 1), torch.cat(anchors), targets)

    @torch.no_grad()
    def proposals(
        self,
        logits: Sequence[Tensor],
        offsets: Sequence[Tensor],
        anchors: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """Without gradient: where a proposal lies is no way for the second stage's losses into this head."""
        before = self.counts.before_train if self.training else self.counts.before
        after = self.counts.after_train if self.training else self.counts.after
        scores, boxes, of_level = [], [], []
        for number, (logit, offset, anchor) in enumerate(zip(logits, offsets, anchors, strict=True)):
            best, index = logit.topk(min(before, logit.shape[1]), dim=1)
            chosen = offset.gather(1, index[..., None].expand(-1, -1, 4))
            scores.append(best)
            boxes.append(self.coder.decode(chosen, anchor[index]))
            of_level.append(torch.full_like(index[0], number))
        level = torch.cat(of_level)
        return [
            self._suppressed(box, score.sigmoid(), level, size)[:after]
            for box, score, size in zip(torch.cat(boxes, 1), torch.cat(scores, 1), sizes, strict=True)
        ]

    def _suppressed(self, boxes: Tensor, scores: Tensor, level: Tensor, size: tuple[int, int]) -> Tensor:
        boxes = clip_boxes_to_image(boxes, size)
        sides = boxes[:, 2:] - boxes[:, :2]
        keep = (sides >= SMALLEST).all(1) & (scores >= 0)  # both are false for NaN
        boxes, scores, level = boxes[keep], scores[keep], level[keep]
        return boxes[batched_nms(boxes, scores.to(boxes.dtype), level, self.overlap)]

    def losses(
        self, logits: Tensor, offsets: Tensor, anchors: Tensor, targets: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Over the sampled anchors of the whole batch together."""
        chosen, labels, predicted, wanted = [], [], [], []
        for logit, offset, target in zip(logits, offsets, targets, strict=True):
            boxes = target["boxes"].to(anchors)
            matches = self.matcher(box_iou(boxes, anchors))
            kinds = torch.where(matches == IGNORED, -1, (matches >= 0).long())
            positive, background = self.sampler(kinds)
            chosen.append(logit[torch.cat([positive, background])])
            labels.append(torch.cat([torch.ones_like(positive), torch.zeros_like(background)]))
            predicted.append(offset[positive])
            wanted.append(self.coder.encode(boxes[matches[positive]], anchors[positive]))
        sampled = sum(len(c) for c in chosen)
        predictions = torch.cat(predicted)
        return {
            "loss_objectness": objectness(torch.cat(chosen), torch.cat(labels)),
            "loss_rpn_box_reg": localisation(predictions, torch.cat(wanted).to(predictions), sampled),
        }
