"""Which anchor or proposal answers for which annotated box, and which of them the loss looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUND = -1
IGNORED = -2


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """Thresholds on the overlap (IoU), both inclusive from below.

    At ``foreground`` and above a candidate is matched; below ``background`` it is background; between them it is
    ignored. With ``force``, the candidates that overlap an annotated box most, ties included, are matched however
    little they overlap.
    """

    foreground: float
    background: float
    force: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.background <= self.foreground <= 1:
            raise ValueError(f"thresholds {self.background} and {self.foreground}: expected 0 <= low <= high <= 1")

    def __call__(self, overlaps: Tensor) -> Tensor:
        """From (boxes, candidates) overlaps to one index of a box, BACKGROUND or IGNORED per candidate.

        Without boxes, everything is background.
        """
        if overlaps.shape[0] == 0:
            return overlaps.new_full((overlaps.shape[1],), BACKGROUND, dtype=torch.int64)
        best, index = overlaps.max(dim=0)
        matches = torch.where(best < self.foreground, IGNORED, index)
        matches = torch.where(best < self.background, BACKGROUND, matches)
        if self.force and overlaps.shape[1] > 0:
            highest = overlaps.amax(dim=1, keepdim=True)
            forced = (overlaps == highest).any(dim=0)
            matches = torch.where(forced, index, matches)  # to the box that the candidate itself overlaps most
        return matches


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """At most ``count`` candidates of an image, at most ``fraction`` of them positive, the rest background."""

    count: int
    fraction: float

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of positives (label > 0) and of background (label 0), each in rising order; others never."""
        positive = torch.where(labels > 0)[0]
        background = torch.where(labels == 0)[0]
        positives = min(positive.numel(), int(self.count * self.fraction))
        backgrounds = min(background.numel(), self.count - positives)
        first = torch.randperm(positive.numel(), device=labels.device)[:positives]
        second = torch.randperm(background.numel(), device=labels.device)[:backgrounds]
        return positive[first].sort().values, background[second].sort().values
