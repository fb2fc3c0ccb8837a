"""Anchors: boxes of fixed sizes and shapes around every cell of every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32, 64, 128)
"""Of P3 to P7, in pixels. A property of the level: an image whose side is no multiple of 128 has the same."""
RATIOS = (0.5, 1.0, 2.0)
"""Height over width."""


class AnchorGenerator(nn.Module):
    """``sizes[level]`` are square roots of areas in pixels, ``ratios`` are height / width.

    Cells are centred on multiples of the stride, from zero. Corners of the anchor at the origin are rounded to whole
    pixels, as in the first public Faster R-CNN and in torchvision.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]] = ((32,), (64,), (128,), (256,), (512,)),
        ratios: Sequence[float] = RATIOS,
        strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(f"anchor sizes for {len(sizes)} levels, strides for {len(strides)}: give one per level")
        self.sizes = tuple(tuple(level) for level in sizes)
        self.ratios = tuple(ratios)
        self.strides = tuple(strides)

    @property
    def per_cell(self) -> int:
        """Anchors of one cell; the same on every level."""
        return len(self.sizes[0]) * len(self.ratios)

    def at_origin(self, sizes: Sequence[float], like: Tensor) -> Tensor:
        """(anchors, 4) boxes x1 y1 x2 y2 around the point zero, ratio by ratio."""
        size = torch.tensor(sizes, dtype=torch.float64)
        root = torch.tensor(self.ratios, dtype=torch.float64).sqrt()
        heights = (root[:, None] * size).flatten()
        widths = (size / root[:, None]).flatten()
        corners = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
        return corners.round().to(like)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """For each level (height * width * per_cell, 4): row by row, cell by cell, ratio by ratio."""
        found = []
        for level, sizes, stride in zip(levels, self.sizes, self.strides, strict=True):
            height, width = level.shape[-2:]
            ys = torch.arange(height, dtype=level.dtype, device=level.device) * stride
            xs = torch.arange(width, dtype=level.dtype, device=level.device) * stride
            y, x = torch.meshgrid(ys, xs, indexing="ij")
            centres = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            found.append((centres + self.at_origin(sizes, level)).reshape(-1, 4))
        return found
