"""From images of any size to one batch, and boxes back to the images' own sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Batcher(nn.Module):
    """Normalises, resizes, and pads at the right and at the bottom with zeros to multiples of ``divisible`` pixels.

    The shorter side becomes ``min_size`` unless the longer would then exceed ``max_size``.
    """

    def __init__(self, min_size: int = 800, max_size: int = 1333, divisible: int = 32) -> None:
        super().__init__()
        self.min_size, self.max_size, self.divisible = min_size, max_size, divisible
        self.mean = (0.485, 0.456, 0.406)
        self.std = (0.229, 0.224, 0.225)

    def forward(self, images: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """(batch, 3, height, width), and each image's own (height, width) in it."""
        resized = [self._resized(image) for image in images]
        height, width = (self._padded(max(image.shape[side] for image in resized)) for side in (1, 2))
        batch = resized[0].new_zeros(len(resized), 3, height, width)
        for place, image in zip(batch, resized, strict=True):
            place[:, : image.shape[1], : image.shape[2]].copy_(image)
        return batch, [(image.shape[1], image.shape[2]) for image in resized]

    def _padded(self, side: int) -> int:
        return math.ceil(side / self.divisible) * self.divisible

    def _resized(self, image: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(v, dtype=image.dtype, device=image.device)[:, None, None] for v in (self.mean, self.std)
        )
        image = (image - mean) / std
        height, width = image.shape[1:]
        scale = min(self.min_size / min(height, width), self.max_size / max(height, width))
        return F.interpolate(
            image[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=True, align_corners=False
        )[0]


def rescaled(boxes: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Boxes of an image of ``source`` (height, width) in the coordinates of ``target``."""
    y, x = (to / of for to, of in zip(target, source, strict=True))
    return boxes * boxes.new_tensor([x, y, x, y])
