"""Two real photographs, from scikit-learn's bundled sample images."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.cache
def _pixels() -> Tensor | None:
    package = importlib.util.find_spec("sklearn")
    if package is None or package.submodule_search_locations is None or importlib.util.find_spec("PIL") is None:
        return None
    from PIL import Image

    folder = Path(package.submodule_search_locations[0], "datasets", "images")  # importing sklearn takes seconds
    images = [np.asarray(Image.open(folder / name)) for name in ("china.jpg", "flower.jpg")]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).double() / 255


def photographs(side: int) -> Tensor | None:
    """china.jpg and flower.jpg as (2, 3, side, side) float64, centre square, ImageNet-normalised; None without them."""
    pixels = _pixels()
    if pixels is None:
        return None
    height, width = pixels.shape[-2:]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    crop = pixels[..., top : top + square, left : left + square]
    scaled = torch.nn.functional.interpolate(crop, (side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (scaled - mean) / std
