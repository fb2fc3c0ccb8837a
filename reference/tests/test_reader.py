"""Correct implementations of every writing style align with the libraries', and compute the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from reference.tests import written_attention as wa
from reference.tests import written_resnets as wr
from reference.tests import written_transformers as wt
from reference.tests.transplanting import assert_equal_function, small_transformer
from suites.resnet import model as our_resnets


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def timm_transformer() -> TimmTransformer:
    return TimmTransformer(img_size=32, patch_size=8, depth=2, num_heads=4, embed_dim=64, mlp_ratio=2, num_classes=10)


def small_resnet() -> ResNet:
    model = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10)
    model.layer3, model.layer4, model.fc = nn.Sequential(), nn.Sequential(), nn.Linear(512, 10)
    return model


LIBRARIES: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "ours-torchvision-resnet18": lambda: (our_resnets.resnet18(10), torchvision.models.resnet18(num_classes=10)),
    "ours-timm-resnet50": lambda: (our_resnets.resnet50(10), timm.create_model("resnet50", num_classes=10)),
    "timm-torchvision-resnet50": lambda: (timm.create_model("resnet50"), torchvision.models.resnet50()),
    "torchvision-timm-resnet18": lambda: (torchvision.models.resnet18(), timm.create_model("resnet18")),
    "torchvision-timm-efficientnet": lambda: (
        torchvision.models.efficientnet_b0(),
        timm.create_model("efficientnet_b0"),
    ),
    "timm-torchvision-efficientnet": lambda: (
        timm.create_model("efficientnet_b0"),
        torchvision.models.efficientnet_b0(),
    ),
    "torchvision-timm-transformer": lambda: (small_transformer(), timm_transformer()),
    "timm-torchvision-transformer": lambda: (timm_transformer(), small_transformer()),
}


@pytest.mark.parametrize("pair", LIBRARIES)
def test_libraries_align_with_each_other(pair: str, images: Tensor) -> None:
    assert_equal_function(*LIBRARIES[pair](), images.repeat(1, 1, 2, 2) if "former" not in pair else images)


NORMS = [wr.functional_norm, wr.textbook_norm, wr.folded_norm, wr.weight_first_norm]
CONVOLUTIONS = [
    wr.padded_convolution,
    wr.unfolded_convolution,
    wr.channels_last_convolution,
    wr.pointwise_as_linear,
    wr.shifted_convolution,
    wr.convolution_over_blocks,
]


@pytest.mark.parametrize("norm", NORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shortcut_first", [False, True], ids=["main-first", "shortcut-first"])
def test_norms_written_by_hand(norm: wr.Norm, shortcut_first: bool, images: Tensor) -> None:
    subject = wr.WrittenResNet(norm, wr.native_convolution, shortcut_first=shortcut_first)
    assert_equal_function(subject, small_resnet(), images)


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=lambda f: f.__name__)
def test_convolutions_written_by_hand(convolution: wr.Convolution, images: Tensor) -> None:
    assert_equal_function(wr.WrittenResNet(wr.functional_norm, convolution), small_resnet(), images)


PATCHES = [
    wt.LinearPatches, wt.UnfoldedPatches, wt.WindowPatches, wt.LoopedPatches, wt.UnshuffledPatches,
    wt.ConvolvedPatches,
]  # fmt: skip
ATTENTIONS = [
    wa.HeadMajorAttention, wa.InterleavedAttention, wa.SplitAttention, wa.KeyValueAttention, wa.EinsumAttention,
    wa.BroadcastAttention, wa.HandwrittenSoftmaxAttention, wa.KeyFirstAttention, wa.LoopedAttention,
    wa.HeadModulesAttention, wa.LibraryAttention, wa.SummedAttention, wa.SummedKeyFirstAttention,
    wa.HeadsAddedAttention, wa.MappedAttention,
]  # fmt: skip
PARTS: dict[str, Callable[[], nn.Module]] = {
    **{part.__name__: partial(wt.WrittenTransformer, patches=part) for part in PATCHES},
    **{part.__name__: partial(wt.WrittenTransformer, attention=part) for part in ATTENTIONS},
    **{part.__name__: partial(wt.WrittenTransformer, norm=part) for part in (wt.HandwrittenNorm, wt.BiasedNorm)},
    **{part.__name__: partial(wt.WrittenTransformer, join=part) for part in (wt.assigned, wt.apart)},
    **{whole.__name__: whole for whole in (
        wt.EncoderTransformer, wt.CheckpointedTransformer, wt.OneVectorTransformer)},
    "all-at-once": partial(
        wt.WrittenTransformer, wt.UnfoldedPatches, wa.EinsumAttention, wt.HandwrittenNorm, wt.assigned),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_transformers_written_by_hand(part: str, library: str, images: Tensor) -> None:
    reference = small_transformer() if library == "torchvision" else timm_transformer()
    assert_equal_function(PARTS[part](), reference, images)


@pytest.mark.parametrize("batch", [1, 3])
def test_batch_size_does_not_matter(batch: int, images: Tensor) -> None:
    subject = wt.WrittenTransformer(attention=wa.HeadMajorAttention)
    assert_equal_function(subject, small_transformer(), images[:1].repeat(batch, 1, 1, 1) + torch.rand(batch, 1, 1, 1))
