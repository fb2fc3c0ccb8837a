"""Replacing the classifier for other classes with the rest frozen, the usual first step of fine-tuning."""

from __future__ import annotations

import math

from torch import nn

from suites.efficientnet.model import EfficientNet


def replace_classifier(model: EfficientNet, num_classes: int) -> EfficientNet:
    """Give ``model`` a new classifier of ``num_classes`` and freeze everything else, in place; returns ``model``.

    Frozen are the parameters (``requires_grad`` off). BatchNorm's running statistics are buffers, not parameters: they
    still follow the new data in train mode. Call ``model.eval()`` and ``model.classifier.train()`` to hold them too.
    Raises ValueError for ``num_classes`` under 1 and then leaves ``model`` as it was.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: must be at least 1")
    old = model.classifier
    model.requires_grad_(False)
    model.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    nn.init.uniform_(model.classifier.weight, -1 / math.sqrt(num_classes), 1 / math.sqrt(num_classes))
    nn.init.zeros_(model.classifier.bias)
    return model
