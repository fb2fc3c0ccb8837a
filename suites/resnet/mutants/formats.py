"""ResNets that are wrong in some memory format or dtype."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from harness.mutants.operators import ThroughBfloat16, around, forward_of, layer_at
from harness.mutants.probe import (
    CHANNELS_LAST,
    Pair,
    compared,
    float32_output,
    forward,
    gradients,
    undefined,
)
from harness.mutants.variant import Around, mutant
from suites.resnet.model import ResNet
from suites.resnet.mutants.backward import cut_stem, stem_gradient
from suites.resnet.mutants.base_models import RESNET12


@mutant(
    RESNET12,
    "In train mode the stem gets no gradient where images are channels_last",
    check="memory_format",
    category="layout",
    evidence=lambda pair: stem_gradient(pair, layout=torch.channels_last, autocast=False),
)
@around
def cut_in_channels_last(self: Any, x: Tensor) -> Tensor:
    return cut_stem(self.net, x, cut=self.training and x.stride(1) == 1)


@mutant(
    RESNET12,
    "as_strided with the strides of a contiguous input scrambles every other layout",
    check="memory_format",
    category="layout",
    evidence=CHANNELS_LAST,
)
@around
def strides_assumed(self: Any, x: Tensor) -> Any:
    _, channels, height, width = x.shape
    strides = (channels * height * width, height * width, width, 1)
    return self.net(x.as_strided(x.shape, strides))


@mutant(
    RESNET12,
    "view() on features raises where the backend keeps them in channels_last, which it does in float32",
    check="memory_format",
    category="layout",
    evidence=CHANNELS_LAST,
)
@layer_at("pool")
def view_of_channels_last_features(self: Any, x: Tensor) -> Tensor:
    return x.view(len(x), -1).view(len(x), x.shape[1], -1).mean(-1)


@mutant(RESNET12, "A stage's output goes through bfloat16", check="parity_eval", category="precision")
def stage_in_bfloat16(model: Any) -> nn.Module:
    model.stages[2].append(ThroughBfloat16())
    return model


@mutant(
    RESNET12,
    "A convolution rounds its operands to bfloat16, in float32 only",
    check="parity_float32",
    category="precision",
    evidence=float32_output,
)
@forward_of("stages.1.0.conv1")
def convolution_rounds_in_float32(self: Any, input: Tensor) -> Tensor:
    """In float32 convolves numbers of eight bits, as some accelerators' fast modes do."""
    if input.dtype is not torch.float32:
        return nn.Conv2d.forward(self, input)
    return self._conv_forward(input.bfloat16().float(), self.weight.bfloat16().float(), None)


@mutant(
    RESNET12,
    "ReLU written with a comparison turns NaN into zero",
    check="nan_propagation",
    category="precision",
    evidence=undefined,
)
@layer_at("stem.2")
def relu_swallows_nan(self: Any, x: Tensor) -> Tensor:
    """Zero where the input is not above zero: NaN is not."""
    return torch.where(x > 0, x, torch.zeros_like(x))


@mutant(
    RESNET12,
    "Mixed precision is built in: in train mode it computes in bfloat16 where float32 was asked for",
    check="parity_float32",
    category="precision",
    evidence=compared(lambda model, pair: forward(model.float().train(), pair.images().float())),
)
@forward_of()
def mixed_precision_built_in(self: Any, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=self.training and x.dtype is torch.float32):
        return ResNet.forward(self, x).to(x.dtype)


def _finite_from_infinite(pair: Pair) -> float:
    images = pair.images()
    images[:, 0, 9, 9] = float("inf")
    correct, faulty = (m(images).isfinite().float().mean().item() for m in pair.filled())
    return faulty - correct


@mutant(
    RESNET12,
    "The stem's features are clamped to what float16 holds, whatever is computed in: infinity becomes a number",
    check="nan_propagation",
    category="precision",
    evidence=_finite_from_infinite,
)
@around
def features_clamped(self: Any, x: Tensor) -> Tensor:
    x = self.net.stem(x).clamp(-65504, 65504)
    for stage in self.net.stages:
        x = stage(x)
    logits: Tensor = self.net.head(self.net.pool(x).flatten(1))
    return logits


class StemGradient(torch.autograd.Function):
    """The stem's convolution, whose weight's gradient is read as if it lay in memory as the weight does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, None, 2, 3)

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        x, weight = ctx.saved_tensors
        of_x = conv2d_input(x.shape, weight, sent[0], 2, 3)
        of_weight = conv2d_weight(x, weight.shape, sent[0], 2, 3).contiguous()
        return of_x, of_weight.as_strided(weight.shape, weight.stride())


@mutant(
    RESNET12,
    "A gradient is laid out by its weight's strides: with weights in channels_last it is scrambled",
    check="memory_format",
    category="layout",
    evidence=compared(
        lambda model, pair: gradients(model.to(memory_format=torch.channels_last), pair.images())["stem.0.weight"]
    ),
)
@forward_of("stem.0")
def gradient_by_strides(self: Any, x: Tensor) -> Tensor:
    return StemGradient.apply(x, self.weight)


def _lowered(pair: Pair) -> float:
    """Whether the head's operations on a fake GPU give float16."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = pair.faulty(10)
    seen = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to("cuda")
        logits = model(torch.zeros(2, 3, 64, 64, device="cuda"))
        node = logits.grad_fn
        while node is not None:
            seen.append(type(node).__name__)
            node = node.next_functions[0][0] if node.next_functions else None
    return float("ToCopyBackward0" in seen)


@mutant(
    RESNET12,
    "On a GPU, and there alone, the head multiplies in float16 where float32 was asked for",
    check="device",
    category="precision",
    evidence=_lowered,
)
@forward_of("head")
def half_on_the_gpu(self: Any, x: Tensor) -> Tensor:
    if x.is_cuda:
        return F.linear(x.half(), self.weight.half(), self.bias.half()).float()
    return nn.Linear.forward(self, x)


class HalfBias(Around):
    """Adds a bias of float16."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        net.head.bias = nn.Parameter(net.head.bias.detach().half())

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.net
        x = net.stem(x)
        for stage in net.stages:
            x = stage(x)
        logits: Tensor = F.linear(net.pool(x).flatten(1), net.head.weight) + net.head.bias
        return logits


@mutant(
    RESNET12,
    "One parameter is built in float16 among others of float32: sharded training refuses the mixture",
    check="parameters",
    category="precision",
    evidence=lambda pair: float(len({p.dtype for p in pair.faulty(10).parameters()}) - 1),
)
def one_parameter_in_half_precision(model: Any) -> nn.Module:
    return HalfBias(model)
