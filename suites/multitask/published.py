"""The tutorial's multi-task network and its combined loss, re-expressed.

The network shares a ResNet-50 under three linear heads, as ours; its embedding is not normalised. The loss adds
`torch.nn.CosineSimilarity`, which gives a vector of similarities, one per image, and is largest where the embeddings
agree: the sum is a vector, from which ``backward()`` can't start, and as a loss it would drive embeddings apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Listing(nn.Module):
    """A torchvision ResNet-50 without its head, and heads for 10 classes, 4 coordinates and 128 features."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.backbone = resnet50()
        width = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        self.task1_head = nn.Linear(width, 10)
        self.task2_head = nn.Linear(width, 4)
        self.task3_head = nn.Linear(width, 128)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, 3, height, width) -> (batch, 10), (batch, 4), (batch, 128)."""
        features = self.backbone(x)
        return self.task1_head(features), self.task2_head(features), self.task3_head(features)


def multitask_resnet50() -> Listing:
    """The network."""
    return Listing()


def multitask_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """The combined loss."""
    classes = nn.functional.cross_entropy(outputs[0], targets[0])
    box = nn.functional.mse_loss(outputs[1], targets[1])
    return classes + 0.5 * box + 0.2 * torch.cosine_similarity(outputs[2], targets[2], dim=1)
