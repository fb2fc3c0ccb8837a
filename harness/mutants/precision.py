"""Networks with a part in lower precision than it says, or that break on large, constant or undefined values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import Pair, difference, float32_output, forward, statistics, tensors
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12, VIT
from harness.mutants.surgery import Around, become, of_type, replaced
from suites.efficientnet.model import SiLU
from suites.vit.model import SelfAttention, VisionTransformer


class ThroughBfloat16(nn.Module):
    """Rounds what passes to bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16).to(x.dtype)


@mutant(RESNET12, "A stage's output goes through bfloat16", check="parity_eval", category="precision")
def stage_in_bfloat16(model: Any) -> nn.Module:
    model.stages[2].append(ThroughBfloat16())
    return model


class HalfWhenFloat32(nn.Conv2d):
    """In float32 convolves numbers of eight bits, as some accelerators' fast modes do."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype is not torch.float32:
            return super().forward(input)
        return self._conv_forward(input.bfloat16().float(), self.weight.bfloat16().float(), None)


@mutant(
    RESNET12,
    "A convolution rounds its operands to bfloat16, in float32 only",
    check="parity_float32",
    category="precision",
    evidence=float32_output,
)
def convolution_rounds_in_float32(model: Any) -> nn.Module:
    become(model.stages[1][0].conv1, HalfWhenFloat32)
    return model


class ShorterUnderAutocast(VisionTransformer):
    """Under autocast leaves out the last layer."""

    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers[:-1] if torch.is_autocast_enabled("cpu") else self.layers
        return self.head(self.norm(layers(self.embed(x)))[:, 0])


def _autocast_output(pair: Pair) -> float:
    correct, faulty = (model.float() for model in pair.filled())
    images = pair.images().float()
    with torch.autocast("cpu", torch.bfloat16):
        return difference(forward(faulty, images), forward(correct, images))


@mutant(
    VIT,
    "Under autocast the last encoder layer is left out",
    check="parity_bfloat16",
    category="precision",
    evidence=_autocast_output,
)
def layer_left_out_under_autocast(model: Any) -> nn.Module:
    return become(model, ShorterUnderAutocast)


class HalfSoftmax(SelfAttention):
    """Attention's softmax in float16."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.split(x)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        weights = torch.softmax(scores.half(), -1).to(x.dtype)
        return self.project((weights @ value).transpose(1, 2).reshape(x.shape))


@mutant(VIT, "The softmax of one layer's attention is computed in float16", check="parity_eval", category="precision")
def softmax_in_float16(model: Any) -> nn.Module:
    become(model.layers[1].attention, HalfSoftmax)
    return model


class RoundedLogits(Around):
    """Three decimals, for smaller logs."""

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return logits + (logits.round(decimals=3) - logits).detach()


@mutant(EFFICIENTNET, "The logits are rounded to three decimals", check="parity_eval", category="precision")
def logits_rounded(model: Any) -> nn.Module:
    return RoundedLogits(model)


class HalfStatistics(nn.BatchNorm2d):
    """Keeps its running statistics in half precision."""

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        if self.training:
            assert self.running_mean is not None
            self.running_mean = self.running_mean.half().to(input.dtype)
        return out


@mutant(
    EFFICIENTNET,
    "A BatchNorm's running mean is kept in half precision",
    check="parity_train",
    category="precision",
    evidence=statistics,
)
def running_mean_in_half_precision(model: Any) -> nn.Module:
    become(model.features[0][1], HalfStatistics)
    return model


class ExponentialSiLU(nn.Module):
    """x exp(x) / (1 + exp(x)), which is infinity over infinity for large x."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.exp() / (1 + x.exp())


def _bright(pair: Pair) -> float:
    torch.manual_seed(0)
    correct, faulty = (factory(10).eval() for factory in (pair.correct, pair.faulty))
    faulty.load_state_dict(correct.state_dict())
    images = 100 * pair.images().float()
    return difference(forward(faulty, images), forward(correct, images))


@mutant(
    EFFICIENTNET,
    "SiLU written with exp(x) in the numerator overflows in float32 from 89 on",
    check="scale",
    category="precision",
    evidence=_bright,
)
def silu_overflows(model: Any) -> nn.Module:
    for name, _ in of_type(model, SiLU):
        replaced(model, name, ExponentialSiLU())
    return model


class Standardised(Around):
    """Divides by the image's deviation, which may be zero."""

    def forward(self, x: Tensor) -> Any:
        return self.net((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))


@mutant(
    VIT,
    "Each image is divided by its own deviation: a constant one becomes NaN",
    check="scale",
    category="precision",
)
def divided_by_the_deviation(model: Any) -> nn.Module:
    return Standardised(model)


def _undefined(pair: Pair) -> float:
    correct, faulty = pair.filled()
    images = pair.images()
    images[:, :, 10, 10] = float("nan")
    return float(forward(correct, images).isnan().sum() - forward(faulty, images).isnan().sum())


class WhereRelu(nn.Module):
    """Zero where the input is not above zero: NaN is not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, torch.zeros_like(x))


@mutant(
    RESNET12,
    "ReLU written with a comparison turns NaN into zero",
    check="nan_propagation",
    category="precision",
    evidence=_undefined,
)
def relu_swallows_nan(model: Any) -> nn.Module:
    return replaced(model, "stem.2", WhereRelu())


class Cleaned(Around):
    """Replaces what is not finite."""

    def forward(self, x: Tensor) -> Any:
        return torch.nan_to_num(self.net(x))


@mutant(
    EFFICIENTNET,
    "nan_to_num on the logits hides that training diverged",
    check="nan_propagation",
    category="precision",
    evidence=_undefined,
)
def nan_hidden(model: Any) -> nn.Module:
    return Cleaned(model)


class ApproximatedWhenExported(nn.GELU):
    """The tanh approximation in exported programs."""

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, approximate="tanh" if torch.compiler.is_exporting() else "none")


def _tanh_gelu(pair: Pair) -> float:
    correct, _ = pair.filled()
    expected = forward(correct, pair.images())
    for _, gelu in of_type(correct, nn.GELU):
        gelu.approximate = "tanh"
    return difference(forward(correct, pair.images()), expected)


@mutant(
    VIT,
    "Exported programs get the tanh approximation of GELU",
    check="export",
    category="precision",
    evidence=_tanh_gelu,
)
def gelu_approximated_when_exported(model: Any) -> nn.Module:
    for _, gelu in of_type(model, nn.GELU):
        become(gelu, ApproximatedWhenExported)
    return model


class ApproximatedWhenCompiled(nn.GELU):
    """The tanh approximation in compiled code."""

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, approximate="tanh" if torch.compiler.is_compiling() else "none")


@mutant(
    VIT,
    "Compiled code gets the tanh approximation of GELU",
    check="compile",
    category="precision",
    evidence=_tanh_gelu,
)
def gelu_approximated_when_compiled(model: Any) -> nn.Module:
    for _, gelu in of_type(model, nn.GELU):
        become(gelu, ApproximatedWhenCompiled)
    return model


class Unguarded(VisionTransformer):
    """Attention whose softmax is an exponential over its sum."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        for layer in self.layers:
            normed = layer.norm1(tokens)  # type: ignore[operator]
            query, key, value = layer.attention.split(normed)  # type: ignore[operator]
            weights = torch.exp(query @ key.mT / query.shape[-1] ** 0.5)
            mixed = (weights / weights.sum(-1, keepdim=True)) @ value
            joined = mixed.transpose(1, 2).reshape(tokens.shape)
            tokens = tokens + layer.attention.project(joined)  # type: ignore[operator, union-attr]
            tokens = tokens + layer.mlp(layer.norm2(tokens))  # type: ignore[operator]
        return self.head(self.norm(tokens)[:, 0])


def _overflow(pair: Pair) -> float:
    """One where only the faulty network's logits overflow in float32 under large queries and keys."""
    finite = []
    for model in pair.filled():
        for name, tensor in tensors(model).items():
            if name.endswith("qkv.weight"):
                tensor.data.mul_(30)
        finite.append(bool(torch.isfinite(forward(model.float(), pair.images().float())).all()))
    return float(finite == [True, False])


@mutant(
    VIT,
    "The softmax of the attention does not subtract the row's maximum: it overflows where attention is sharp",
    check="sharp_attention",
    category="precision",
    evidence=_overflow,
)
def softmax_without_maximum(model: Any) -> nn.Module:
    return become(model, Unguarded)
