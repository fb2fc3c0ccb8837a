"""Depthwise convolutions as sums of shifted products, one for each place of the kernel, with channels last.

torch takes some ten milliseconds for a thousand channels of four places, and this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.numerics.convolution import Convolution


def fits(found: Convolution) -> bool:
    """Whether each channel has a kernel of its own, and one output."""
    return found.groups > 1 and found.images.shape[1] == len(found.weight) == found.groups


def forward(found: Convolution, bias: Tensor | None) -> Tensor:
    """The output."""
    source, kernel = _last(found.images), found.weight.permute(2, 3, 1, 0).contiguous()
    out = source.new_zeros((len(source), *found.sides, source.shape[3]))
    if bias is not None:
        out += bias
    for i, j, there, here in _places(found):
        out[there].addcmul_(source[here], kernel[i, j])
    return found.like_images(out)


def backward(
    found: Convolution, gradient: Tensor, for_images: bool, for_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the images and of the weight, those that are asked for."""
    arriving, source, kernel = _last(gradient), _last(found.images), found.weight.permute(2, 3, 1, 0).contiguous()
    of_images = torch.zeros_like(source) if for_images else None
    of_weight = torch.zeros_like(found.weight) if for_weight else None
    for i, j, there, here in _places(found):
        part = arriving[there]
        if of_images is not None:
            of_images[here].addcmul_(part, kernel[i, j])
        if of_weight is not None:
            of_weight[:, 0, i, j] = torch.mul(source[here], part).sum((0, 1, 2))
    return None if of_images is None else found.like_images(of_images), of_weight


def _places(found: Convolution) -> Iterator[tuple[int, int, tuple[Any, ...], tuple[Any, ...]]]:
    """Row and column in the kernel, the part of the output that it contributes to, and from which part of the input.

    Places that only ever meet padding are left out: on small maps most of them do.
    """
    rows, columns = (
        [
            _overlap(place, found.images.shape[2 + axis], found.sides[axis], *found.axes[axis])
            for place in range(found.weight.shape[2 + axis])
        ]
        for axis in (0, 1)
    )
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if row is not None and column is not None:
                yield i, j, (slice(None), row[0], column[0]), (slice(None), row[1], column[1])


def _overlap(
    place: int, side: int, length: int, stride: int, padding: int, dilation: int
) -> tuple[slice, slice] | None:
    """Of the output and of the input along one axis; None where there is none."""
    shift = place * dilation - padding
    first = max(0, -(shift // stride))
    last = min(length - 1, (side - 1 - shift) // stride)
    if last < first:
        return None
    return slice(first, last + 1), slice(first * stride + shift, last * stride + shift + 1, stride)


def _last(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1).contiguous()
