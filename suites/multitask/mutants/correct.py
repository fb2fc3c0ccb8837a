"""Correct multi-task networks, losses, weightings and projections in other forms than ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.variant import correct_instead
from suites.multitask.mutants.base_models import LOSS, NETWORK, PROJECTION, WEIGHTING, multitask_resnet12
from suites.multitask.mutants.probe import take, task_gradients


class DictOfTasks(nn.Module):
    """Heads by name; the result is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = multitask_resnet12().backbone
        self.heads = nn.ModuleDict(
            {"vector": nn.Linear(512, 128), "where": nn.Linear(512, 4), "what": nn.Linear(512, 10)}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.trunk(x)
        answers = {name: head(h) for name, head in self.heads.items()}
        v = answers["vector"]
        return {**answers, "vector": v / v.norm(dim=-1, keepdim=True).clamp(min=1e-8)}


@correct_instead(NETWORK, "a dict as result, heads in a ModuleDict in another order, division by the norm")
def dict_of_tasks() -> nn.Module:
    return DictOfTasks()


class OneLayer(nn.Module):
    """The three heads as one linear layer, whose output is split."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = multitask_resnet12().backbone
        self.heads = nn.Conv2d(512, 142, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedding, classes, box = self.heads(self.trunk(x)[:, :, None, None]).flatten(1).split([128, 10, 4], dim=1)
        return classes, box, F.normalize(embedding, dim=1)


@correct_instead(NETWORK, "the three heads as one 1x1 convolution whose output is split")
def one_layer_of_heads() -> nn.Module:
    return OneLayer()


class Columns(nn.Module):
    """The three heads as the columns of one matrix (in, out), with zeros at first."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.trunk = multitask_resnet12().backbone
        self.widths = (num_classes, 4, 128)
        self.matrix = nn.Parameter(torch.zeros(512, sum(self.widths)))
        self.offset = nn.Parameter(torch.zeros(sum(self.widths)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        classes, box, embedding = (self.trunk(x) @ self.matrix + self.offset).split(self.widths, dim=1)
        return classes, box, F.normalize(embedding, dim=1)


@correct_instead(NETWORK, "the three heads as columns of one matrix (in, out), which starts at zero")
def heads_in_columns(num_classes: int = 10) -> nn.Module:
    return Columns(num_classes)


@correct_instead(LOSS, "log_softmax, explicit sums, normalised vectors, and torch.where instead of indexing")
def explicit_sums(
    outputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    masks: Sequence[Tensor] | None = None,
    weights: Sequence[float] = (1.0, 0.5, 0.2),
) -> Tensor:
    classes, box, embedding = outputs
    n = len(classes)
    there = [torch.ones(n, dtype=torch.bool) for _ in range(3)] if masks is None else list(masks)
    if not any(bool(m.any()) for m in there):
        raise RuntimeError("no labels at all")
    label = torch.where(there[0], targets[0], torch.zeros_like(targets[0]))
    if int(label.min()) < 0 or int(label.max()) >= classes.shape[1]:
        raise IndexError("class out of range")
    wanted_box = torch.where(there[1][:, None], targets[1], box.detach())
    wanted = torch.where(there[2][:, None], targets[2], embedding.detach())
    each = [
        -F.log_softmax(classes, dim=1)[torch.arange(n), label],
        (box - wanted_box).square().sum(1) / box.shape[1],
        1 - (F.normalize(embedding, dim=1) * F.normalize(wanted, dim=1)).sum(1),
    ]
    total = classes.new_zeros(())
    for weight, loss, mask in zip(weights, each, there, strict=True):
        kept = torch.where(mask, loss, loss * 0)
        total = total + weight * kept.sum() / max(1, int(mask.sum()))
    return total


class Separate(nn.Module):
    """One scalar parameter for each task; Kendall's own factor of one half."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.s = nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in range(tasks)])

    def forward(self, losses: Iterable[Tensor]) -> Tensor:
        total: Any = 0
        for s, loss in zip(self.s, losses, strict=True):
            total = total + 0.5 * torch.exp(-s) * loss + 0.5 * s
        return total


@correct_instead(WEIGHTING, "a ParameterList of scalars, with the regression's factor of one half")
def separate_scalars(tasks: int) -> nn.Module:
    return Separate(tasks)


class Deviations(nn.Module):
    """The logarithms of the deviations, half of the log-variances, in a column."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(tasks, 1))

    def forward(self, losses: Tensor) -> Tensor:
        log_sigma = self.log_sigma.squeeze(1)
        return (losses / (2 * log_sigma.exp().square()) + log_sigma).sum()


@correct_instead(WEIGHTING, "log-deviations, as equation 10 is written")
def log_deviations(tasks: int) -> nn.Module:
    return Deviations(tasks)


@correct_instead(PROJECTION, "written out, without a library, in the order of the tasks")
def written_out(
    losses: Sequence[Tensor], shared: Sequence[nn.Parameter], heads: Sequence[Sequence[nn.Parameter]]
) -> None:
    rows = task_gradients(losses, shared, heads)
    total = torch.zeros_like(rows[0])
    for i, row in enumerate(rows):
        g = row.clone()
        for j, other in enumerate(rows):
            if i != j:
                g -= torch.clamp(torch.dot(g, other), max=0) / other.square().sum().clamp_min(1e-30) * other
        total += g
    take(shared, total)
