"""A fault is found at the layer that has it, and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from reference.alignment.locate.first_difference import Deviation, first_deviation
from reference.tests import written_attention as wa
from reference.tests import written_transformers as wt
from reference.tests.transplanting import small_transformer, transplanted
from suites.resnet import model as our_resnets

BOUND = 1e-11

Fault = Callable[[Any], None]
"""Changes a network, in ways that its types don't foresee."""


def located(subject: nn.Module, reference: nn.Module, images: Tensor, *, train: bool = False) -> Deviation | None:
    alignment = transplanted(subject, reference, images[:1])
    return first_deviation(subject, reference, alignment, images.double(), bound=BOUND, train=train)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def stride_on_first(model: Any) -> None:
    block = model.stages[1][0]
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def without_relu(model: Any) -> None:
    model.stages[1][1].relu = nn.Identity()


def detached_shortcut(model: Any) -> None:
    model.stages[1][1].shortcut.forward = torch.Tensor.detach


def without_shortcut(model: Any) -> None:
    block = model.stages[1][1]
    block.forward = lambda x: block.relu(
        block.norm3(block.conv3(block.relu(block.norm2(block.conv2(block.relu(block.norm1(block.conv1(x))))))))
    )


def half_precision(model: Any) -> None:
    model.stages[1][1].shortcut.forward = lambda x: x.float().double()


def with_eps(model: Any) -> None:
    model.stages[1][1].norm2.eps = 1e-3


def with_average_pool(model: Any) -> None:
    model.stem[3] = nn.AvgPool2d(3, 2, 1)


def with_softmax(model: Any) -> None:
    model.head = nn.Sequential(model.head, nn.Softmax(dim=1))


def with_dilation(model: Any) -> None:
    model.stages[2][1].conv2.dilation = model.stages[2][1].conv2.padding = (2, 2)


def padded_to_one_side(model: Any) -> None:
    convolution = model.stages[1][0].conv2
    convolution.padding = (0, 0)
    model.stages[1][0].conv2 = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), convolution)


RESNET_FAULTS: list[tuple[Fault, str, str]] = [
    (stride_on_first, "layer2.0.conv1", "stride (2, 2) instead of (1, 1) (it is on stages.1.0.conv2)"),
    (without_relu, "layer2.1.conv2", "relu missing before stages.1.1.conv2"),
    (without_shortcut, "layer2.2.conv1", "residual addition missing before stages.1.2.conv1"),
    (half_precision, "layer2.2.conv1", "conversion to float32 before stages.1.2.conv1"),
    (with_eps, "layer2.1.bn2", "eps 0.001 instead of 1e-05"),
    (with_average_pool, "layer1.0.conv1", "average pool [3, 3] [2, 2] [1, 1] instead of max pool"),
    (with_softmax, "after fc", "softmax added before the output"),
    (padded_to_one_side, "layer2.0.conv2", "padding ((0, 1), (0, 1)) instead of (1, 1)"),
    (with_dilation, "layer3.1.conv2", "dilation (2, 2) instead of (1, 1)"),
]


@pytest.mark.parametrize(("fault", "layer", "cause"), RESNET_FAULTS, ids=lambda p: getattr(p, "__name__", ""))
def test_faulty_resnets(fault: Fault, layer: str, cause: str, images: Tensor) -> None:
    subject = our_resnets.resnet50(10)
    fault(subject)
    found = located(subject, torchvision.models.resnet50(num_classes=10), images.repeat(1, 1, 2, 2))
    assert found is not None
    assert found.reference == layer
    assert cause in found.cause
    assert found.stage == layer.removeprefix("after ").split(".")[0]
    assert found.error > BOUND >= found.error_before


def test_a_right_resnet_and_one_with_a_detached_shortcut_show_no_deviation(images: Tensor) -> None:
    for fault in (None, detached_shortcut):
        subject = our_resnets.resnet50(10)
        if fault is not None:
            fault(subject)
        for train in (False, True):
            assert located(subject, torchvision.models.resnet50(num_classes=10), images, train=train) is None


def test_explicit_padding_is_no_deviation(images: Tensor) -> None:
    subject = our_resnets.resnet18(10)
    block: Any = subject.get_submodule("stages.1.0")
    block.conv1.padding = (0, 0)
    block.conv1 = nn.Sequential(nn.ZeroPad2d(1), block.conv1)
    block.norm1.eps = 1e-3  # the fault to be found
    found = located(subject, torchvision.models.resnet18(num_classes=10), images.repeat(1, 1, 2, 2))
    assert found is not None
    assert found.reference == "layer2.0.bn1"


def test_momentum_is_seen_in_train_mode_only(images: Tensor) -> None:
    subject, reference = our_resnets.resnet18(10), torchvision.models.resnet18(num_classes=10)
    norm: Any = subject.get_submodule("stages.0.1.norm2")
    norm.momentum = 0.01
    assert located(subject, reference, images.repeat(1, 1, 2, 2)) is None
    found = located(subject, reference, images.repeat(1, 1, 2, 2), train=True)
    assert found is not None
    assert (found.reference, found.cause) == ("layer1.1.bn2", "momentum 0.01 instead of 0.1")


class FewerHeads(wa.FusedAttention):
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.inner(x).view(n, t, 3, 2, wa.WIDTH // 2).permute(2, 0, 3, 1, 4)
        return self.outer(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, wa.WIDTH))


class CausalAttention(wa.FusedAttention):
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.inner(x).view(n, t, 3, wa.HEADS, wa.HEAD).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.outer(out.transpose(1, 2).reshape(n, t, wa.WIDTH))


class MaskedAttention(wa.FusedAttention):
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.inner(x).view(n, t, 3, wa.HEADS, wa.HEAD).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT / wa.HEAD**0.5).masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), float("-inf"))
        return self.outer((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, wa.WIDTH))


class UnscaledAttention(wa.FusedAttention):
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.inner(x).view(n, t, 3, wa.HEADS, wa.HEAD).permute(2, 0, 3, 1, 4)
        return self.outer(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(n, t, wa.WIDTH))


class ColumnMajorPatches(wt.ConvolvedPatches):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mT.flatten(2).mT


class LooseNorm(nn.LayerNorm):
    def __init__(self) -> None:
        super().__init__(wa.WIDTH, eps=1e-5)


class LooseHandwrittenNorm(wt.HandwrittenNorm):
    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * self.g + self.c


class ApproximateGelu(wt.WrittenTransformer):
    def forward(self, x: Tensor) -> Tensor:
        x = self.join(self.z, self.a, self.patches(x))
        for depth in range(wt.DEPTH):
            x = self.mixers[depth](self.norms[2 * depth](x)) + x
            hidden = F.gelu(self.ups[depth](self.norms[2 * depth + 1](x)), approximate="tanh")
            x = x + self.downs[depth](hidden)
        return self.last(self.final(x)[:, 0])


class PostNorm(wt.WrittenTransformer):
    def forward(self, x: Tensor) -> Tensor:
        x = self.join(self.z, self.a, self.patches(x))
        for depth in range(wt.DEPTH):
            x = self.norms[2 * depth](x + self.mixers[depth](x))
            x = self.norms[2 * depth + 1](x + self.downs[depth](F.gelu(self.ups[depth](x))))
        return self.last(self.final(x)[:, 0])


class MeanPooled(wt.WrittenTransformer):
    def forward(self, x: Tensor) -> Tensor:
        x = self.join(self.z, self.a, self.patches(x))
        for depth in range(wt.DEPTH):
            x = self.mixers[depth](self.norms[2 * depth](x)) + x
            x = x + self.downs[depth](F.gelu(self.ups[depth](self.norms[2 * depth + 1](x))))
        return self.last(self.final(x).mean(1))


BLOCK = "encoder.layers.encoder_layer_0"
ATTENTION = f"{BLOCK}.self_attention"
Whole = wt.WrittenTransformer
TRANSFORMER_FAULTS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "heads": (lambda: Whole(attention=FewerHeads), ATTENTION, "number of heads 2 instead of 4"),
    "causal": (lambda: Whole(attention=CausalAttention), ATTENTION, "attention mask causal instead of none"),
    "masked": (lambda: Whole(attention=MaskedAttention), ATTENTION, "attention mask"),
    "scale": (lambda: Whole(attention=UnscaledAttention), ATTENTION, "attention scale 1.0 instead of 0.25"),
    "patches": (lambda: Whole(patches=ColumnMajorPatches), "encoder.pos_embedding", "order of patches"),
    "eps": (lambda: Whole(norm=LooseNorm), f"{BLOCK}.ln_1", "eps 1e-05 instead of 1e-06"),
    "handwritten-eps": (lambda: Whole(norm=LooseHandwrittenNorm), f"{BLOCK}.ln_1", "eps 1e-05 instead of 1e-06"),
    "gelu": (ApproximateGelu, f"{BLOCK}.mlp.3", "gelu (tanh approximation) instead of gelu"),
    "post-norm": (PostNorm, f"{BLOCK}.ln_1", "norm order: after the addition (post-norm)"),
    "mean": (MeanPooled, "heads.head", "mean"),
}


@pytest.mark.parametrize(
    "attention", [wa.HeadMajorAttention, wa.LoopedAttention, wa.EinsumAttention, wa.LibraryAttention]
)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_attention_written_by_hand_is_no_deviation(attention: type[nn.Module], train: bool, images: Tensor) -> None:
    assert located(Whole(attention=attention), small_transformer(), images, train=train) is None
    found = located(Whole(attention=attention, norm=LooseNorm), small_transformer(), images, train=train)
    assert found is not None
    assert found.cause == "eps 1e-05 instead of 1e-06"
    found = located(MeanPooled(attention=attention), small_transformer(), images, train=train)
    assert found is not None
    assert found.reference == "heads.head"


@pytest.mark.parametrize("fault", TRANSFORMER_FAULTS)
def test_faulty_transformers(fault: str, images: Tensor) -> None:
    build, layer, cause = TRANSFORMER_FAULTS[fault]
    found = located(build(), small_transformer(), images)
    assert found is not None
    assert layer in found.reference
    assert cause in found.cause
    assert found.error > BOUND >= found.error_before
    if fault == "post-norm":
        assert found.subject == "norms.0"
