"""One small ResNet written in many ways: anonymous parameters, handwritten norms, unfold for convolution, ..."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Convolution = Callable[[Tensor, Tensor, int, int], Tensor]


def functional_norm(x: Tensor, mean: Tensor, var: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, gain, shift, False, 0.1, 1e-5)


def _channel(value: Tensor) -> Tensor:
    return value.view(1, -1, 1, 1)


def textbook_norm(x: Tensor, mean: Tensor, var: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return (x - _channel(mean)) / torch.sqrt(_channel(var) + 1e-5) * _channel(gain) + _channel(shift)


def folded_norm(x: Tensor, mean: Tensor, var: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    scale = gain * torch.rsqrt(var + 1e-5)
    return x * scale[None, :, None, None] + (shift - mean * scale)[None, :, None, None]


def weight_first_norm(x: Tensor, mean: Tensor, var: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    out = gain[:, None, None] * (x - mean[:, None, None])
    out *= (var[:, None, None] + 1e-5) ** -0.5
    out += shift[:, None, None]
    return out


def native_convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, padding)


def padded_convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv2d(F.pad(x, (padding,) * 4), weight, None, stride)


def unfolded_convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    out_width, _, kernel, _ = weight.shape
    columns = F.unfold(x, kernel, padding=padding, stride=stride)
    side = (x.shape[-1] + 2 * padding - kernel) // stride + 1
    return (weight.reshape(out_width, -1) @ columns).view(x.shape[0], out_width, -1, side)


def channels_last_convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    weight = weight.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, None, stride, padding)


def pointwise_as_linear(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    if weight.shape[-1] > 1:
        return F.conv2d(x, weight, None, stride, padding)
    rows = x[:, :, ::stride, ::stride].permute(0, 2, 3, 1)
    return (rows @ weight[:, :, 0, 0].t()).permute(0, 3, 1, 2)


def shifted_convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    kernel, x = weight.shape[-1], F.pad(x, (padding,) * 4)
    reach = (x.shape[-1] - kernel) // stride * stride + 1
    summands = [
        torch.einsum("nihw,oi->nohw", x[:, :, i : i + reach : stride, j : j + reach : stride], weight[:, :, i, j])
        for i in range(kernel)
        for j in range(kernel)
    ]
    total = summands[0]
    for summand in summands[1:]:
        total = total + summand
    return total


def convolution_over_blocks(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    if weight.shape[-1] != 7:
        return F.conv2d(x, weight, None, stride, padding)
    blocks = F.pixel_unshuffle(F.pad(x, (4, 2, 4, 2)), 2)
    kernel = F.pad(weight, (1, 0, 1, 0)).view(len(weight), -1, 4, 2, 4, 2)
    return F.conv2d(blocks, kernel.permute(0, 1, 3, 5, 2, 4).flatten(1, 3))


class WrittenResNet(nn.Module):
    """Two stages of one bottleneck each, state in two flat lists, in the order in which ``forward`` uses it."""

    def __init__(self, norm: Norm, convolution: Convolution, *, shortcut_first: bool = False) -> None:
        super().__init__()
        self.norm, self.convolution, self.shortcut_first = norm, convolution, shortcut_first
        self.p = nn.ParameterList()
        self.buffered: list[str] = []
        self._add_layer(64, 3, 7)
        width = 64
        for inner in (64, 128):
            layers = [(inner, width, 1), (inner, inner, 3), (inner * 4, inner, 1)]
            shortcut = [(inner * 4, width, 1)]
            for layer in shortcut + layers if shortcut_first else layers + shortcut:
                self._add_layer(*layer)
            width = inner * 4
        self.p.append(nn.Parameter(torch.randn(10, width) / width**0.5))
        self.p.append(nn.Parameter(torch.zeros(10)))

    def _add_layer(self, out_width: int, in_width: int, kernel: int) -> None:
        self.p.append(nn.Parameter(torch.randn(out_width, in_width, kernel, kernel) / (in_width * kernel) ** 0.5))
        self.p.append(nn.Parameter(torch.ones(out_width)))
        self.p.append(nn.Parameter(torch.zeros(out_width)))
        number = len(self.buffered)
        for index, value in ((number, torch.zeros(out_width)), (number + 1, torch.ones(out_width))):
            self.register_buffer(f"b{index}", value)
            self.buffered.append(f"b{index}")

    def forward(self, x: Tensor) -> Tensor:
        parameters = iter(self.p)
        buffers = iter(getattr(self, name) for name in self.buffered)
        x = torch.relu(self._layer(x, parameters, buffers, stride=2))
        x = F.max_pool2d(x, 3, 2, 1)
        for stride in (1, 2):
            shortcut = self._layer(x, parameters, buffers, stride) if self.shortcut_first else None
            out = self._layer(x, parameters, buffers).clamp(min=0)
            out = F.relu_(self._layer(out, parameters, buffers, stride))
            out = self._layer(out, parameters, buffers)
            out += self._layer(x, parameters, buffers, stride) if shortcut is None else shortcut
            x = F.relu(out)
        return x.mean((2, 3)) @ next(parameters).t() + next(parameters)

    def _layer(self, x: Tensor, parameters: Iterator[Tensor], buffers: Iterator[Tensor], stride: int = 1) -> Tensor:
        weight, gain, shift = next(parameters), next(parameters), next(parameters)
        out = self.convolution(x, weight, stride, weight.shape[-1] // 2)
        return self.norm(out, next(buffers), next(buffers), gain, shift)
