"""Vision Transformers that are wrong for some image sizes or batches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import around, forward_of
from harness.mutants.probe import ALONE, output_at
from harness.mutants.variant import become, instead, mutant
from suites.vit.model import SelfAttention, VisionTransformer
from suites.vit.mutants.base_models import VIT, vit_short_8


@mutant(
    VIT,
    "Attention runs over the batch (batch_first was forgotten), so the class token never sees a patch",
    check="no_cache",
    category="batch",
    issue="https://github.com/om-ai-lab/OmDet/issues/19",
)
@forward_of(SelfAttention)
def attention_over_the_batch(self: Any, x: Tensor) -> Tensor:
    return SelfAttention.forward(self, x.transpose(0, 1)).transpose(0, 1)


NINE = output_at(9)


@mutant(
    VIT,
    "squeeze() takes away a batch of one, behind a guard that needs real values",
    check="shapes_on_values",
    category="batch",
    evidence=ALONE,
)
@around
def squeeze_behind_a_guard(self: Any, x: Tensor) -> Any:
    """Looks at values first, so that it can't run without any."""
    if x.isnan().any().item():
        return self.net(x)
    return self.net(x).squeeze()


@mutant(
    VIT,
    "Only the first eight samples are computed, the others repeat them",
    check="batch_independence",
    category="batch",
    evidence=NINE,
)
@around
def eight_samples_at_most(self: Any, x: Tensor) -> Any:
    logits = self.net(x[:8])
    return logits if len(x) <= 8 else torch.cat((logits, logits[: len(x) - 8]))


@mutant(VIT, "The batch is sorted and not put back in order", check="batch_independence", category="batch")
@around
def batch_left_sorted(self: Any, x: Tensor) -> Any:
    return self.net(x[x.mean((1, 2, 3)).argsort()])


class Stretched(VisionTransformer):
    """Stretches the positions of the published size, the class token's among them."""

    def embed(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images).flatten(2).mT
        tokens = torch.cat((self.class_token.expand(len(images), -1, -1), patches), 1)
        positions = F.interpolate(self.position_embedding.mT, size=tokens.shape[1], mode="linear").mT
        return self.dropout(tokens + positions)


@instead(
    VIT,
    "Built for images larger than published, it stretches the published positions, the class token's among them",
    check="shapes",
    category="size",
    evidence=lambda pair: float(
        len(pair.correct(10, 3, 64).position_embedding[0]) - len(pair.faulty(10, 3, 64).position_embedding[0])
    ),
)
def positions_stretched(num_classes: int = 1000, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    model = vit_short_8(num_classes, in_channels, min(image_size, 32))
    if image_size > 32:
        become(model, Stretched)
        model.image_size = image_size
    return model
