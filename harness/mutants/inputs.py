"""Networks that are right for some inputs only: for one size or one batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import Pair, difference, forward, output_at
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12, VIT
from harness.mutants.surgery import Around, become, replaced
from suites.resnet.model import ResNet

ODD = output_at(2, 63, 64)
WIDE = output_at(2, 64, 96)
ALONE = output_at(1)
NINE = output_at(9)


class EvenSides(Around):
    """Drops the last row or column of odd images."""

    def forward(self, x: Tensor) -> Any:
        height, width = x.shape[2:]
        return self.net(x[:, :, : height // 2 * 2, : width // 2 * 2])


@mutant(RESNET12, "Odd sides are cropped to even ones", check="parity_sizes", category="size", evidence=ODD)
def odd_sides_cropped(model: Any) -> nn.Module:
    return EvenSides(model)


class Squared(Around):
    """Resizes what is not square."""

    def forward(self, x: Tensor) -> Any:
        height, width = x.shape[2:]
        return self.net(x if height == width else F.interpolate(x, (height, height), mode="bilinear"))


@mutant(EFFICIENTNET, "Images that are not square are made so", check="parity_sizes", category="size", evidence=WIDE)
def made_square(model: Any) -> nn.Module:
    return Squared(model)


class Upright(Around):
    """Turns landscape into portrait."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x.transpose(2, 3) if x.shape[3] > x.shape[2] else x)


@mutant(
    EFFICIENTNET,
    "Height and width are exchanged where the image is wider than high",
    check="parity_sizes",
    category="size",
    evidence=WIDE,
)
def height_and_width_exchanged(model: Any) -> nn.Module:
    return Upright(model)


class SevenBySeven(nn.Module):
    """Pools the first seven rows and columns of the map, all that 224 px images have."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :7, :7].mean((2, 3), keepdim=True)


@mutant(
    RESNET12,
    "Pooling looks at the 7x7 places of a 224 px image and leaves out what larger images have",
    check="parity_sizes",
    category="size",
    evidence=output_at(1, 256),
)
def pooling_of_seven_by_seven(model: Any) -> nn.Module:
    return replaced(model, "pool", SevenBySeven())


class FixedDivisor(nn.Module):
    """The sum over the map divided by the four pixels that 64 px images leave."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3), keepdim=True) / 4


@mutant(
    RESNET12, "Global pooling divides by a fixed count of pixels", check="parity_sizes", category="size", evidence=WIDE
)
def pooling_with_a_fixed_divisor(model: Any) -> nn.Module:
    return replaced(model, "pool", FixedDivisor())


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


class CoarseWhenLarge(Around):
    """Blurs what is larger than 100 px."""

    def forward(self, x: Tensor) -> Any:
        if max(x.shape[2:]) > 100:
            x = F.interpolate(F.avg_pool2d(x, 2), x.shape[2:], mode="nearest")
        return self.net(x)


@mutant(
    RESNET12,
    "Large images are halved and enlarged again",
    check="parity_photographs",
    category="size",
    evidence=output_at(2, 128),
)
def large_images_halved(model: Any) -> nn.Module:
    return CoarseWhenLarge(model)


class SqueezedOutput(Around):
    """Squeezes every side of one."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x).squeeze()


@mutant(
    EFFICIENTNET,
    "squeeze() without a dimension also takes away a batch of one",
    check="shapes",
    category="batch",
    evidence=ALONE,
)
def squeeze_of_a_batch_of_one(model: Any) -> nn.Module:
    return SqueezedOutput(model)


class GuardedSqueeze(Around):
    """Looks at values first, so that it can't run without any."""

    def forward(self, x: Tensor) -> Any:
        if x.isnan().any().item():
            return self.net(x)
        return self.net(x).squeeze()


@mutant(
    VIT,
    "squeeze() takes away a batch of one, behind a guard that needs real values",
    check="shapes_on_values",
    category="batch",
    evidence=ALONE,
)
def squeeze_behind_a_guard(model: Any) -> nn.Module:
    return GuardedSqueeze(model)


class BytesGuessed(Around):
    """Takes bright images for bytes."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x / 255 if x.abs().max().item() > 25 else x)


def _beside_a_bright_one(pair: Pair) -> float:
    correct, faulty = pair.filled()
    images = pair.images()
    images[1:] *= 100
    return difference(forward(faulty, images)[:1], forward(correct, images)[:1])


@mutant(
    EFFICIENTNET,
    "A batch with one bright image is taken for bytes and divided by 255",
    check="batch_independence",
    category="batch",
    evidence=_beside_a_bright_one,
)
def bytes_guessed_from_the_batch(model: Any) -> nn.Module:
    return BytesGuessed(model)


class BatchCentred(ResNet):
    """Subtracts the batch's mean logits."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits - logits.mean(0)


@mutant(RESNET12, "Logits are centred over the batch", check="batch_independence", category="batch")
def logits_centred_over_the_batch(model: Any) -> nn.Module:
    return become(model, BatchCentred)


class OfTheBatch(nn.BatchNorm2d):
    """Normalises by the batch in eval mode too."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


@mutant(
    RESNET12,
    "A BatchNorm takes the batch's statistics in eval mode",
    check="batch_independence",
    category="batch",
)
def batch_statistics_in_eval_mode(model: Any) -> nn.Module:
    become(model.stages[1][0].norm1, OfTheBatch)
    return model


@mutant(
    EFFICIENTNET,
    "The BatchNorms are built without running statistics",
    check="batch_independence",
    category="batch",
)
def no_running_statistics(model: Any) -> nn.Module:
    for name, norm in list(model.named_modules()):
        if isinstance(norm, nn.BatchNorm2d):
            replaced(model, name, nn.BatchNorm2d(norm.num_features, eps=norm.eps, track_running_stats=False))
    return model


class EightAtMost(Around):
    """Handles eight samples and starts over."""

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x[:8])
        return logits if len(x) <= 8 else torch.cat((logits, logits[: len(x) - 8]))


@mutant(
    VIT,
    "Only the first eight samples are computed, the others repeat them",
    check="batch_independence",
    category="batch",
    evidence=NINE,
)
def eight_samples_at_most(model: Any) -> nn.Module:
    return EightAtMost(model)


class Mixed(nn.Module):
    """Reads (batch, width) memory as if the width came first."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return x.t().reshape(len(x), -1)[:, :, None, None]


@mutant(RESNET12, "A transpose before a reshape mixes the samples", check="batch_independence", category="batch")
def reshape_mixes_samples(model: Any) -> nn.Module:
    return replaced(model, "pool", Mixed())


class SingleByItself(Around):
    """Standardises an image that comes alone."""

    def forward(self, x: Tensor) -> Any:
        if len(x) == 1:
            x = x - x.mean()
        return self.net(x)


@mutant(
    EFFICIENTNET,
    "A single image is centred by its own mean, a batch is not",
    check="batch_independence",
    category="batch",
    evidence=ALONE,
)
def single_image_centred(model: Any) -> nn.Module:
    return SingleByItself(model)


class SortedBatch(Around):
    """Orders the batch by brightness and leaves it so."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x[x.mean((1, 2, 3)).argsort()])


@mutant(VIT, "The batch is sorted and not put back in order", check="batch_independence", category="batch")
def batch_left_sorted(model: Any) -> nn.Module:
    return SortedBatch(model)
