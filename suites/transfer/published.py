"""The three recipes of a tutorial, re-expressed for any network, with what each does otherwise than its name says.

1. Freezing parameters leaves BatchNorm's statistics to follow the new data in train mode, and dropout at work.
2. The backbone's parameters are found by ``p not in head.parameters()``, which compares tensors by value: RuntimeError.
3. The rate doubles towards the *earlier* layers before the head is added on top; the stem and other early parameters
   are in no group; and nothing is ever unfrozen, since nothing was frozen.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Adam, Optimizer


def feature_extraction(model: nn.Module, head: str) -> Optimizer:
    """Freeze all parameters, train a head of the same size."""
    last = model.get_submodule(head)
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parameter in last.parameters():
        parameter.requires_grad = True
    return Adam(last.parameters(), lr=1e-3)


def two_learning_rates(model: nn.Module, head: str) -> Optimizer:
    """A lower rate for what is not in the head, told by ``in``."""
    last = model.get_submodule(head)
    backbone = [p for p in model.parameters() if p not in last.parameters()]
    return Adam([{"params": backbone, "lr": 1e-4}, {"params": list(last.parameters()), "lr": 1e-3}])


def gradual_unfreezing(model: nn.Module, head: str) -> Optimizer:
    """The last four stages, latest first, each at twice the rate of the one before; then the head at twice that."""
    last = model.get_submodule(head)
    stages = [m for m in model.children() if any(True for _ in m.parameters()) and last not in m.modules()]
    groups: list[dict[str, object]] = []
    rate = 1e-4
    for stage in stages[:0:-1][:4]:
        groups.append({"params": stage.parameters(), "lr": rate})
        rate *= 2
    groups.append({"params": last.parameters(), "lr": rate})
    return torch.optim.Adam(groups)
