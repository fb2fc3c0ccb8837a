"""Dense convolutions over few places, as one matrix product for the whole batch.

torch multiplies once for each image, and reads the whole weight each time: on the last stages' maps, of one to sixteen
places, that takes three to five times as long.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from harness.numerics.convolution import Convolution

PLACES = 16
"""Of the output, up to which it was seen to be faster."""
PLACES_POINTWISE = 64
"""The same for kernels of one place, which need no copies of the input."""


def fits(found: Convolution) -> bool:
    """Whether it is dense and its output small."""
    pointwise = found.weight.shape[2:] == (1, 1)
    return found.groups == 1 and math.prod(found.sides) <= (PLACES_POINTWISE if pointwise else PLACES)


def forward(found: Convolution, bias: Tensor | None) -> Tensor:
    """The output."""
    out = _windows(found) @ found.weight.flatten(1).t()
    if bias is not None:
        out += bias
    return found.like_images(out.unflatten(0, (-1, *found.sides)))


def backward(
    found: Convolution, gradient: Tensor, for_images: bool, for_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the images and of the weight, those that are asked for."""
    arriving = gradient.permute(0, 2, 3, 1).flatten(0, 2)
    of_weight = (arriving.t() @ _windows(found)).view(found.weight.shape) if for_weight else None
    return _of_images(found, arriving) if for_images else None, of_weight


def _windows(found: Convolution) -> Tensor:
    """(batch * height * width, channels * rows * columns): what each place of the output is made of."""
    (s, p, d), (t, q, e) = found.axes
    padded = F.pad(found.images, (q, q, p, p)) if p or q else found.images
    batch, channels, rows, columns = padded.stride()
    windows = padded.as_strided(
        (len(padded), *found.sides, *found.weight.shape[1:]),
        (batch, rows * s, columns * t, channels, rows * d, columns * e),
        padded.storage_offset(),
    )
    return windows.flatten(3).flatten(0, 2)


def _of_images(found: Convolution, arriving: Tensor) -> Tensor:
    """Each place's gradient, put back to where its window lay."""
    (s, p, d), (t, q, e) = found.axes
    batch, channels, height, width = found.images.shape
    rows, columns = found.weight.shape[2:]
    h, w = found.sides
    parts = (arriving @ found.weight.flatten(1)).view(batch, h, w, channels, rows, columns)
    padded = arriving.new_zeros((batch, height + 2 * p, width + 2 * q, channels))
    for i in range(rows):
        for j in range(columns):
            padded[:, i * d : i * d + (h - 1) * s + 1 : s, j * e : j * e + (w - 1) * t + 1 : t] += parts[..., i, j]
    return found.like_images(padded[:, p : p + height, q : q + width])
