"""Classification plus localisation, for the proposals and for the boxes (Ren et al. 2015, equation 1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

BETA = 1 / 9
"""Where the localisation loss turns from square to linear."""


def localisation(offsets: Tensor, wanted: Tensor, sampled: int) -> Tensor:
    """Smooth L1 summed over the positives' offsets and divided by the number of all ``sampled`` candidates.

    Without positives it is zero, and still depends on the offsets, so that every head gets a gradient.
    """
    return F.smooth_l1_loss(offsets, wanted, beta=BETA, reduction="sum") / max(1, sampled)


def objectness(logits: Tensor, positive: Tensor) -> Tensor:
    """Mean binary cross-entropy of the sampled anchors; ``positive`` is 1.0 or 0.0 for each."""
    return F.binary_cross_entropy_with_logits(logits, positive.to(logits))


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the sampled proposals; label 0 is background."""
    return F.cross_entropy(logits, labels)
