"""What a two-dimensional convolution is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def output_side(side: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Height or width of what a convolution gives; not positive where the kernel is larger than the padded image."""
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@dataclass(frozen=True)
class Convolution:
    """A plain two-dimensional one: ``images`` (batch, channels, height, width), ``weight`` (outputs, channels /
    groups, rows, columns), and for each axis its stride, padding and dilation."""

    images: Tensor
    weight: Tensor
    axes: tuple[tuple[int, int, int], tuple[int, int, int]]
    groups: int

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the output; not positive where the kernel is larger than the padded image."""
        height, width = (
            output_side(self.images.shape[2 + axis], self.weight.shape[2 + axis], *self.axes[axis]) for axis in (0, 1)
        )
        return height, width

    def like_images(self, last: Tensor) -> Tensor:
        """From channels last to channels first, in the memory format that torch gives results of such images."""
        given = self.images
        strided = given.is_contiguous(memory_format=torch.channels_last) and not given.is_contiguous()
        layout = torch.channels_last if strided else torch.contiguous_format
        return last.permute(0, 3, 1, 2).contiguous(memory_format=layout)


def understood(
    images: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Convolution | None:
    """The convolution, where it is a plain one; what torch would refuse is left to torch."""
    if transposed or not plain(images) or not plain(weight) or not images.numel() or not weight.numel():
        return None
    if images.shape[1] != groups * weight.shape[1] or len(weight) % groups:
        return None
    if min(padding) < 0 or min(*stride, *dilation) < 1:
        return None
    first, second = (tuple(s[axis] if len(s) > 1 else s[0] for s in (stride, padding, dilation)) for axis in (0, 1))
    found = Convolution(images, weight, (first, second), groups)  # type: ignore[arg-type]
    return found if min(found.sides) > 0 else None


def plain(tensor: Tensor) -> bool:
    """A batch of float64 maps on the CPU, or a weight for them."""
    known = type(tensor) in (Tensor, nn.Parameter)
    return known and tensor.dtype is torch.float64 and tensor.device.type == "cpu" and tensor.ndim == 4
