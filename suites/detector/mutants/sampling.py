"""Detectors that sample other anchors or proposals, or sample them otherwise, in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms

from harness.mutants.operators import method_of
from harness.mutants.variant import become, mutant
from suites.detector.model.matcher import Matcher, Sampler
from suites.detector.model.rpn import ProposalCounts, RegionProposals
from suites.detector.mutants import probe as evidence
from suites.detector.mutants.probe import DETECTOR, both


def _apart(count: int, shift: float = 0.0) -> Tensor:
    """Boxes of 8 px that don't touch."""
    place = torch.arange(count, dtype=torch.float64)
    corner = torch.stack([10 * (place % 100) + shift, 10 * (place // 100)], dim=1)
    return torch.cat([corner, corner + 8], dim=1)


def _kept(model: Any, count: int, levels: int, train: bool) -> Tensor:
    """Proposals of as many levels with ``count`` anchors each, of which the last level's score highest."""
    logits = [torch.linspace(0, 1, count, dtype=torch.float64)[None] + n for n in range(levels)]
    anchors = [_apart(count, 0.25 * n) for n in range(levels)]
    offsets = [torch.zeros(1, count, 4, dtype=torch.float64) for _ in range(levels)]
    found: Tensor = model.rpn.train(train).proposals(logits, offsets, anchors, [(1000, 1000)])[0]
    return found


@mutant(
    DETECTOR,
    "In training proposals are as few as in use: 1,000 per level before suppression and 300 after it",
    check="parity_sampling",
    category="training",
    evidence=both(lambda model: torch.tensor([len(_kept(model, 3000, 1, train=True))])),
)
def few_proposals_in_training(model: Any) -> nn.Module:
    model.rpn.counts = ProposalCounts(before_train=1000, after_train=300)
    return model


class SharedLimit(RegionProposals):
    """Keeps 2,000 of the whole batch."""

    @torch.no_grad()
    def proposals(
        self,
        logits: Sequence[Tensor],
        offsets: Sequence[Tensor],
        anchors: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        found = super().proposals(logits, offsets, anchors, sizes)
        return [f[: self.counts.after_train // len(found)] for f in found] if self.training else found


def _of_two(model: Any) -> Tensor:
    count = 3000
    logits = [torch.linspace(0, 1, count, dtype=torch.float64).expand(2, -1)]
    offsets, anchors = [torch.zeros(2, count, 4, dtype=torch.float64)], [_apart(count)]
    return torch.tensor([len(f) for f in model.rpn.train().proposals(logits, offsets, anchors, [(1000, 1000)] * 2)])


@mutant(
    DETECTOR,
    "The images of a batch share the 2,000 proposals that training keeps of one",
    check="parity_sampling",
    category="batch",
    evidence=both(_of_two),
)
def limit_of_the_batch(model: Any) -> nn.Module:
    become(model.rpn, SharedLimit)
    return model


def _counts(stage: str) -> Callable[[Any], Tensor]:
    """How many positives and how much background are sampled of 1,000 each."""
    labels = torch.tensor([1] * 1000 + [0] * 1000)

    def measure(model: Any) -> Tensor:
        return torch.tensor([len(part) for part in model.get_submodule(stage).sampler(labels)])

    return measure


@mutant(
    DETECTOR,
    "The second stage looks at 128 proposals, half of them positive, for 512 and a quarter",
    check="parity_sampling",
    category="training",
    evidence=both(_counts("roi_heads")),
)
def few_samples(model: Any) -> nn.Module:
    model.roi_heads.sampler = Sampler(count=128, fraction=0.5)
    return model


@mutant(
    DETECTOR,
    "A quarter of the sampled anchors may be positive, for half of them",
    check="parity_sampling",
    category="training",
    evidence=both(_counts("rpn")),
)
def few_positive_anchors(model: Any) -> nn.Module:
    model.rpn.sampler = Sampler(count=256, fraction=0.25)
    return model


class First(Sampler):
    """Takes those at the top left."""

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        positive, background = torch.where(labels > 0)[0], torch.where(labels == 0)[0]
        positives = min(len(positive), int(self.count * self.fraction))
        return positive[:positives], background[: self.count - positives]


def repeats(stage: str) -> Callable[[Any], Tensor]:
    """Whether two draws are the same."""
    labels = torch.tensor([1] * 1000 + [0] * 1000)

    def measure(model: Any) -> Tensor:
        sampler = model.get_submodule(stage).sampler
        torch.manual_seed(1)
        first = torch.cat(sampler(labels))
        torch.manual_seed(2)
        return torch.tensor([1 + float(torch.equal(first, torch.cat(sampler(labels))))])

    return measure


@mutant(
    DETECTOR,
    "The first anchors are taken, without chance",
    check="random_sampling",
    category="training",
    evidence=both(repeats("rpn")),
)
def first_anchors(model: Any) -> nn.Module:
    model.rpn.sampler = First(count=256, fraction=0.5)
    return model


def _faint(model: Any) -> Tensor:
    """How many are found of one proposal whose first class scores 0.03."""
    logits = torch.full((1, evidence.CLASSES), -50.0, dtype=torch.float64)
    logits[0, :2] = torch.tensor([0.97, 0.03]).double().log()
    offsets = torch.zeros(1, evidence.CLASSES, 4, dtype=torch.float64)
    (found,) = model.roi_heads.detect(logits, offsets, [torch.tensor([[1.0, 1.0, 9.0, 9.0]]).double()], [(32, 64)])
    return torch.tensor([1 + len(found["scores"])])


@mutant(
    DETECTOR,
    "Detections with scores from 0.01 on are kept, for 0.05",
    check="parity_scores",
    category="forward",
    evidence=both(_faint),
)
def low_threshold(model: Any) -> nn.Module:
    model.roi_heads.score = 0.01
    return model


@mutant(
    DETECTOR,
    "Images are made smaller with antialiasing, as Pillow does, so that weights see other images than they learnt from",
    check="parity_detections",
    category="size",
    evidence=both(lambda model: model.transform(evidence.images(128, 256))[0]),
)
@method_of("_resized", "transform")
def antialiased(self: Any, image: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, dtype=image.dtype)[:, None, None] for v in (self.mean, self.std))
    height, width = image.shape[1:]
    scale = min(self.min_size / min(height, width), self.max_size / max(height, width))
    size = [int(height * scale), int(width * scale)]
    return F.interpolate(((image - mean) / std)[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


@mutant(
    DETECTOR,
    "After suppression proposals stand level by level, and the first 1,000 are kept, not the best",
    check="parity_large_boxes",
    category="size",
    evidence=both(lambda model: _kept(model, 800, 2, train=False)),
)
@method_of("_suppressed", "rpn")
def unsorted_levels(self: Any, boxes: Tensor, scores: Tensor, level: Tensor, size: tuple[int, int]) -> Tensor:
    boxes = clip_boxes_to_image(boxes, size)
    of_level = [torch.where((level == one) & (scores >= 0))[0] for one in level.unique()]
    return torch.cat([boxes[w][nms(boxes[w], scores[w].to(boxes.dtype), self.overlap)] for w in of_level])


class ForItsBox(Matcher):
    """Gives a forced anchor to the box that it was forced for."""

    def __call__(self, overlaps: Tensor) -> Tensor:
        matches = super().__call__(overlaps)
        for number, row in enumerate(overlaps if self.force else ()):
            matches = torch.where(row == row.max(), number, matches)
        return matches


@mutant(
    DETECTOR,
    "An anchor that is a box's best learns that box, though it overlaps another more",
    check="parity_losses",
    category="training",
    evidence=both(lambda model: model.rpn.matcher(torch.tensor([[0.2, 0.0], [0.6, 0.65]]).double()) + 3),
)
def forced_to_its_box(model: Any) -> nn.Module:
    model.rpn.matcher = ForItsBox(foreground=0.7, background=0.3, force=True)
    return model
