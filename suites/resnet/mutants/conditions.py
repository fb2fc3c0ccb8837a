"""ResNets that are wrong for some image sizes, batches or class counts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import around, forward_of, layer_at
from harness.mutants.probe import (
    ODD,
    WIDE,
    output_at,
    train_gradient,
    trained_at,
    trained_with,
)
from harness.mutants.variant import become, mutant, of_type, replaced
from suites.resnet.model import BasicBlock, ResNet
from suites.resnet.mutants.backward import Linear, cut_stem
from suites.resnet.mutants.base_models import RESNET12
from suites.resnet.mutants.train_mode import KeepsStatistics, normalised_in_parts


@mutant(RESNET12, "Odd sides are cropped to even ones", check="parity_sizes", category="size", evidence=ODD)
@around
def odd_sides_cropped(self: Any, x: Tensor) -> Any:
    height, width = x.shape[2:]
    return self.net(x[:, :, : height // 2 * 2, : width // 2 * 2])


@mutant(
    RESNET12,
    "Pooling looks at the 7x7 places of a 224 px image and leaves out what larger images have",
    check="parity_sizes",
    category="size",
    evidence=output_at(1, 256),
)
@layer_at("pool")
def pooling_of_seven_by_seven(self: Any, x: Tensor) -> Tensor:
    return x[:, :, :7, :7].mean((2, 3), keepdim=True)


@mutant(
    RESNET12, "Global pooling divides by a fixed count of pixels", check="parity_sizes", category="size", evidence=WIDE
)
@layer_at("pool")
def pooling_with_a_fixed_divisor(self: Any, x: Tensor) -> Tensor:
    """The sum over the map divided by the four pixels that 64 px images leave."""
    return x.sum((2, 3), keepdim=True) / 4


@mutant(
    RESNET12,
    "The final pooling has a fixed kernel, the AvgPool2d(7) of old: other sizes don't fit the head",
    check="shapes",
    category="size",
    evidence=output_at(2, 64),
    issue="https://github.com/pytorch/vision/issues/140",
)
def pooling_with_a_fixed_kernel(model: Any) -> nn.Module:
    return replaced(model, "pool", nn.AvgPool2d(4))


@mutant(
    RESNET12,
    "Large images are halved and enlarged again",
    check="parity_photographs",
    category="size",
    evidence=output_at(2, 128),
)
@around
def large_images_halved(self: Any, x: Tensor) -> Any:
    if max(x.shape[2:]) > 100:
        x = F.interpolate(F.avg_pool2d(x, 2), x.shape[2:], mode="nearest")
    return self.net(x)


@mutant(RESNET12, "Logits are centred over the batch", check="batch_independence", category="batch")
@forward_of()
def logits_centred_over_the_batch(self: Any, x: Tensor) -> Tensor:
    logits = ResNet.forward(self, x)
    return logits - logits.mean(0)


@mutant(
    RESNET12,
    "A BatchNorm takes the batch's statistics in eval mode",
    check="batch_independence",
    category="batch",
)
@forward_of("stages.1.0.norm1")
def batch_statistics_in_eval_mode(self: Any, input: Tensor) -> Tensor:
    if self.training:
        return nn.BatchNorm2d.forward(self, input)
    return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


@mutant(RESNET12, "A transpose before a reshape mixes the samples", check="batch_independence", category="batch")
@layer_at("pool")
def reshape_mixes_samples(self: Any, x: Tensor) -> Tensor:
    """Reads (batch, width) memory as if the width came first."""
    x = x.mean((2, 3))
    return x.t().reshape(len(x), -1)[:, :, None, None]


@mutant(
    RESNET12,
    "Training batches of more than 32 are normalised 32 at a time",
    check="parity_train",
    category="batch",
    evidence=trained_at(40),
)
@forward_of("stem.1")
def ghost_batches(self: Any, x: Tensor) -> Tensor:
    return normalised_in_parts(self, x, 32)


@mutant(
    RESNET12,
    "In train mode the stem gets no gradient where images have 128 pixels and more",
    check="gradients",
    category="size",
    evidence=lambda pair: train_gradient(pair, (2, 3, 128, 128)),
)
@around
def cut_on_large_images(self: Any, x: Tensor) -> Tensor:
    return cut_stem(self.net, x, cut=self.training and x.shape[-1] >= 128)


def _detached_from_24(block: Any, x: Tensor) -> Tensor:
    """A basic block whose shortcut is detached where the batch is large."""
    out = block.norm2(block.conv2(block.relu(block.norm1(block.conv1(x)))))
    return torch.relu(out + block.shortcut(x.detach() if len(x) > 24 else x))


@mutant(
    RESNET12,
    "The shortcuts are detached in batches of more than 24 images",
    check="gradients",
    category="batch",
    evidence=lambda pair: train_gradient(pair, (25, 3, 32, 32)),
)
@forward_of(BasicBlock)
def cut_in_large_batches(self: Any, x: Tensor) -> Tensor:
    return _detached_from_24(self, x)


@mutant(
    RESNET12,
    "One shortcut's projection gets no image in batches of more than 24",
    check="gradients",
    category="batch",
    evidence=lambda pair: train_gradient(pair, (25, 3, 32, 32)),
)
@forward_of("stages.3.0")
def projection_cut_in_large_batches(self: Any, x: Tensor) -> Tensor:
    return _detached_from_24(self, x)


SHRUNK = 256
"""Pixels: more than the checks with values put through train mode."""


@mutant(
    RESNET12,
    "Built for ImageNet's 1,000 classes, as a pretrained network is, its norms never leave their running statistics",
    check="parity_photographs",
    category="training",
    evidence=trained_with(1000),
)
def statistics_kept_with_published_classes(model: Any) -> nn.Module:
    if model.head.out_features == 1000:
        for _, norm in of_type(model, nn.BatchNorm2d):
            become(norm, KeepsStatistics)
    return model


@mutant(
    RESNET12,
    "Progressive resizing is left in: in training, images of 256 px and more are shrunk",
    check="shapes",
    category="training",
    evidence=lambda pair: train_gradient(pair, (2, 3, SHRUNK, SHRUNK)),
)
@forward_of()
def shrunk_in_training(self: Any, x: Tensor) -> Tensor:
    if self.training and x.shape[-1] >= SHRUNK:
        x = F.interpolate(x, (SHRUNK // 2, SHRUNK // 2))
    return ResNet.forward(self, x)


@mutant(
    RESNET12,
    "Batches over 128 are normalised in parts of 128",
    check="parity_train",
    category="batch",
    evidence=lambda pair: train_gradient(pair, (130, 3, 32, 32)),
)
@forward_of(nn.BatchNorm2d)
def ghost_batches_of_128(self: Any, x: Tensor) -> Tensor:
    return normalised_in_parts(self, x, 128)


CHUNK = 8


class LastChunk(Linear):
    """Works through the batch in chunks, and keeps the last one's weight gradient."""

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        x, weight = ctx.saved_tensors
        kept = torch.zeros_like(weight)
        for part, given in zip(sent[0].split(CHUNK), x.split(CHUNK), strict=True):
            kept = part.mT @ given
        return sent[0] @ weight, kept, sent[0].sum(0), None


@mutant(
    RESNET12,
    "The classifier's backward pass goes through chunks of eight images, and assigns where it should add",
    check="parity_train",
    category="batch",
    evidence=lambda pair: train_gradient(pair, (2 * CHUNK, 3, 32, 32)),
)
@forward_of("head")
def gradient_of_the_last_chunk(self: Any, x: Tensor) -> Tensor:
    return LastChunk.apply(x, self.weight, self.bias, None)
