"""Combined losses that are wrong for some labels, batches or weights only; learnt weights that start or change
wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants import multitask_evidence as evidence
from harness.mutants.evidence import Pair, difference
from harness.mutants.mutant import instead, mutant
from harness.mutants.recipes import LOSS, WEIGHTING
from harness.mutants.surgery import become
from suites.multitask.model import WEIGHTS, UncertaintyWeighting, task_losses

Tensors = Sequence[Tensor]


def _sum(losses: Tensor, weights: Sequence[float]) -> Tensor:
    return (losses * losses.new_tensor(tuple(weights))).sum()


def _normal(batch: int) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(batch)
    drawn = [torch.randn(batch, width, generator=generator, dtype=torch.float64) for width in (10, 4, 128, 4, 128)]
    return drawn[:3], (torch.arange(batch) % 10, *drawn[3:])


def _of_a_call(pair: Pair, batch: int, masks: Any = None, length: float = 1.0, **keywords: Any) -> float:
    given, (classes, box, embedding) = _normal(batch)
    ours, theirs = (
        loss(given, (classes, box, length * embedding), masks, **keywords) for loss in (pair.correct, pair.faulty)
    )
    return difference(theirs, ours)


@instead(
    LOSS,
    "An image of class -1 is left out though no mask says so",
    check="bad_labels",
    category="forward",
    evidence=evidence.refusals,
)
def negative_class_ignored(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    there = list(masks or [torch.ones(len(outputs[0]), dtype=torch.bool)] * 3)
    return _sum(task_losses(outputs, targets, [there[0] & (targets[0] >= 0), *there[1:]]), weights)


def _some_boxes(pair: Pair) -> float:
    everyone = torch.ones(3, dtype=torch.bool)
    return _of_a_call(pair, 3, (everyone, torch.tensor([True, False, True]), everyone))


@instead(
    LOSS,
    "What is missing is told by NaN and -1, and masks are not looked at",
    check="masked_tasks",
    evidence=_some_boxes,
)
def masks_guessed(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    known = None if masks is None else [targets[0] >= 0, *(~t.isnan().any(1) for t in targets[1:])]
    return _sum(task_losses(outputs, targets, known), weights)


def _left_of_targets(pair: Pair) -> float:
    given, targets = _normal(3)
    before = targets[1].clone()
    everyone = torch.ones(3, dtype=torch.bool)
    pair.faulty(given, targets, (everyone, torch.tensor([True, False, True]), everyone))
    return difference(targets[1], before)


@instead(
    LOSS,
    "Masked boxes are zeroed in the caller's targets",
    check="masked_tasks",
    category="state",
    evidence=_left_of_targets,
)
def targets_zeroed(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    if masks is not None:
        targets[1].masked_fill_(~masks[1][:, None], 0.0)
    return _sum(task_losses(outputs, targets, masks), weights)


@instead(
    LOSS,
    "The loss is computed in float32, whatever the outputs are",
    check="loss_value",
    category="precision",
    evidence=lambda pair: _of_a_call(pair, 5),
)
def in_float32(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    single = [t.float() if t.is_floating_point() else t for t in (*outputs, *targets)]
    return _sum(task_losses(single[:3], single[3:], masks), weights).to(outputs[0].dtype)


@instead(
    LOSS,
    "Embedding targets shorter than one are not normalised",
    check="loss_value",
    category="size",
    evidence=lambda pair: _of_a_call(pair, 5, length=1e-3),
)
def short_targets(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    losses = task_losses(outputs, targets, masks)
    if masks is not None:
        return _sum(losses, weights)
    wanted = targets[2] / targets[2].norm(dim=1, keepdim=True).clamp(min=1.0)
    distance = 1 - (F.normalize(outputs[2], dim=1) * wanted).sum(1).mean()
    return _sum(torch.stack([losses[0], losses[1], distance]), weights)


@instead(
    LOSS,
    "From a batch of 16 on, the box's loss is the mean over half of the images",
    check="loss_value",
    category="batch",
    evidence=lambda pair: _of_a_call(pair, 32),
)
def half_of_a_large_batch(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    half = len(outputs[1]) // 2 if len(outputs[1]) >= 16 else len(outputs[1])
    losses = task_losses(outputs, targets, masks)
    if masks is None:
        losses = torch.stack([losses[0], F.mse_loss(outputs[1][:half], targets[1][:half]), losses[2]])
    return _sum(losses, weights)


@instead(
    LOSS,
    "Weights above 5 count as 5",
    check="loss_weights",
    evidence=lambda pair: _of_a_call(pair, 3, weights=(1.0, 9.0, 0.2)),
)
def weights_clamped(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    return _sum(task_losses(outputs, targets, masks), [min(w, 5.0) for w in weights])


class PlainWhenEvaluated(UncertaintyWeighting):
    """Weighted in train mode alone."""

    def forward(self, losses: Tensor) -> Tensor:
        return super().forward(losses) if self.training else losses.sum()


def _evaluated(pair: Pair) -> float:
    values = []
    for build in (pair.correct, pair.faulty):
        module = build(3).eval()
        nn.init.constant_(next(module.parameters()), 0.5)
        values.append(module(torch.tensor([0.5, 1.5, 2.5])).detach())
    return difference(values[1], values[0])


@mutant(
    WEIGHTING,
    "In eval mode the losses are added as they are",
    check="weighted_sum",
    category="training",
    evidence=_evaluated,
)
def plain_when_evaluated(module: Any) -> nn.Module:
    return become(module, PlainWhenEvaluated)


@mutant(
    WEIGHTING,
    "The log-variances start anywhere",
    check="log_variances",
    category="initialisation",
    evidence=lambda pair: float(pair.faulty(3).log_variance.detach().abs().max()),
)
def starts_anywhere(module: Any) -> nn.Module:
    nn.init.normal_(module.log_variance, 9.0, 0.5)
    return module


@instead(
    WEIGHTING,
    "There are three log-variances for any number of tasks",
    check="log_variances",
    category="size",
    evidence=lambda pair: abs(float(sum(p.numel() for p in pair.faulty(5).parameters())) - 5),
)
def always_three(tasks: int = 3) -> nn.Module:
    return UncertaintyWeighting()
