"""Boxes as offsets from anchors or proposals (Girshick et al. 2014, appendix C)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = math.log(1000 / 16)
"""Of a log-scaled width or height: an untrained regressor must not overflow exp."""


@dataclass(frozen=True)
class BoxCoder:
    """``weights`` scale the offsets in x, y, log width and log height."""

    weights: tuple[float, float, float, float]

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """(n, 4) offsets that take each anchor to its box, both x1 y1 x2 y2 in pixels."""
        x, y, width, height = _centred(boxes)
        x0, y0, width0, height0 = _centred(anchors)
        wx, wy, ww, wh = self.weights
        return torch.stack(
            [
                wx * (x - x0) / width0,
                wy * (y - y0) / height0,
                ww * torch.log(width / width0),
                wh * torch.log(height / height0),
            ],
            dim=1,
        )

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """(..., 4) boxes of the offsets (..., 4) from anchors that broadcast with them.

        Half precision is computed in float32: a coordinate of 1,333 has a resolution of 1 pixel in float16 and of 8 in
        bfloat16.
        """
        dtype = torch.promote_types(offsets.dtype, torch.float32)
        offsets, anchors = offsets.to(dtype), anchors.to(dtype)
        x0, y0, width0, height0 = _centred(anchors)
        wx, wy, ww, wh = self.weights
        dx, dy, dw, dh = offsets.unbind(-1)
        x, y = dx / wx * width0 + x0, dy / wy * height0 + y0
        half_width = 0.5 * torch.exp((dw / ww).clamp(max=LARGEST)) * width0
        half_height = 0.5 * torch.exp((dh / wh).clamp(max=LARGEST)) * height0
        return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return x1 + 0.5 * (x2 - x1), y1 + 0.5 * (y2 - y1), x2 - x1, y2 - y1
