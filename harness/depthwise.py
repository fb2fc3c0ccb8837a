"""Depthwise convolutions in float64 on the CPU, as sums of shifted products.

torch computes these one channel at a time: some ten milliseconds for a thousand channels of four places, which was half
of what an EfficientNet's verdict took. With channels last, one product per place of the kernel does the same work in a
tenth of the time; only the order of the sums differs, by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

aten = torch.ops.aten


def shortcut(func: Any, args: Sequence[Any]) -> Any:
    """What ``func(*args)`` gives where it is such a convolution or its backward pass; None for everything else."""
    if func is aten.convolution.default and _fits(*args):
        images, weight, bias, stride, padding, dilation = args[:6]
        return _convolved(images, weight, bias, _Window(images, weight, stride, padding, dilation))
    if func is aten.convolution_backward.default and _fits(args[1], args[2], None, *args[4:10]):
        gradient, images, weight, _, stride, padding, dilation, _, _, _, wanted = args
        if _plain(gradient):
            return _backward(gradient, images, weight, _Window(images, weight, stride, padding, dilation), wanted)
    return None


def _plain(tensor: Tensor) -> bool:
    known = type(tensor) in (Tensor, nn.Parameter)
    return known and tensor.dtype is torch.float64 and tensor.device.type == "cpu" and tensor.ndim == 4


def _fits(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> bool:
    """Whether it is one that is computed here; what torch would refuse is left to torch."""
    return (
        groups > 1
        and not transposed
        and _plain(images)
        and _plain(weight)
        and images.numel() > 0
        and images.shape[1] == weight.shape[0] == groups
        and weight.shape[1] == 1
        and (bias is None or (bias.dtype is torch.float64 and bias.shape == (groups,)))
        and all(p >= 0 for p in padding)
        and all(side > 0 for side in _sides(images, weight, stride, padding, dilation))
    )


def _sides(
    images: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Height and width of the output. A setting may be one number for both."""
    sides = []
    for axis in (0, 1):
        s, p, d = (_of(setting, axis) for setting in (stride, padding, dilation))
        sides.append((images.shape[2 + axis] + 2 * p - d * (weight.shape[2 + axis] - 1) - 1) // s + 1)
    return sides


def _of(setting: Sequence[int], axis: int) -> int:
    return setting[axis] if len(setting) > 1 else setting[0]


class _Window:
    """Which part of the output each place of the kernel contributes to, and from which part of the input."""

    def __init__(
        self, images: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
    ) -> None:
        self.height, self.width = _sides(images, weight, stride, padding, dilation)
        settings = [tuple(_of(setting, axis) for setting in (stride, padding, dilation)) for axis in (0, 1)]
        self._rows, self._columns = (
            [self._overlap(place, images.shape[2 + axis], length, *settings[axis]) for place in range(count)]
            for axis, count, length in ((0, weight.shape[2], self.height), (1, weight.shape[3], self.width))
        )

    @staticmethod
    def _overlap(
        place: int, side: int, length: int, stride: int, padding: int, dilation: int
    ) -> tuple[slice, slice] | None:
        """Of the output and of the input along one axis; None where the place only ever meets padding."""
        shift = place * dilation - padding
        first = max(0, -(shift // stride))
        last = min(length - 1, (side - 1 - shift) // stride)
        if last < first:
            return None
        start = first * stride + shift
        return slice(first, last + 1), slice(start, last * stride + shift + 1, stride)

    def places(self) -> Iterator[tuple[int, int, tuple[Any, ...], tuple[Any, ...]]]:
        """Row and column in the kernel, part of the output, part of the input (both channels last)."""
        for i, rows in enumerate(self._rows):
            for j, columns in enumerate(self._columns):
                if rows is not None and columns is not None:
                    yield i, j, (slice(None), rows[0], columns[0]), (slice(None), rows[1], columns[1])


def _last(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1).contiguous()


def _like(tensor: Tensor, given: Tensor) -> Tensor:
    """Channels first, in the memory format that torch gives results of ``given``."""
    strided = given.is_contiguous(memory_format=torch.channels_last) and not given.is_contiguous()
    return tensor.permute(0, 3, 1, 2).contiguous(
        memory_format=torch.channels_last if strided else torch.contiguous_format
    )


def _convolved(images: Tensor, weight: Tensor, bias: Tensor | None, window: _Window) -> Tensor:
    source, kernel = _last(images), weight.permute(2, 3, 1, 0).contiguous()
    out = source.new_zeros((len(source), window.height, window.width, source.shape[3]))
    if bias is not None:
        out += bias
    for i, j, there, here in window.places():
        out[there].addcmul_(source[here], kernel[i, j])
    return _like(out, images)


def _backward(
    gradient: Tensor, images: Tensor, weight: Tensor, window: _Window, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    arriving = _last(gradient)
    of_images = arriving.new_zeros([images.shape[i] for i in (0, 2, 3, 1)]) if wanted[0] else None
    of_weight = weight.new_zeros(weight.shape) if wanted[1] else None
    source, kernel = _last(images), weight.permute(2, 3, 1, 0).contiguous()
    for i, j, there, here in window.places():
        part = arriving[there]
        if of_images is not None:
            of_images[here].addcmul_(part, kernel[i, j])
        if of_weight is not None:
            of_weight[:, 0, i, j] = torch.mul(source[here], part).sum((0, 1, 2))
    return (
        None if of_images is None else _like(of_images, images),
        of_weight,
        gradient.sum((0, 2, 3)) if wanted[2] else None,
    )
