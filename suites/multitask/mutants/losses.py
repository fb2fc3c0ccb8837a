"""Multi-task losses that are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.mutants.probe import Pair, difference
from harness.mutants.variant import instead
from suites.multitask.model import WEIGHTS, multitask_loss, task_losses
from suites.multitask.mutants import probe as evidence
from suites.multitask.mutants.base_models import LOSS

Tensors = Sequence[Tensor]


def _sum(losses: Tensor, weights: Sequence[float]) -> Tensor:
    return (losses * losses.new_tensor(tuple(weights))).sum()


@instead(
    LOSS, "A cosine similarity is added where its distance is meant", check="loss_value", evidence=evidence.loss_value
)
def similarity_as_loss(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    losses = task_losses(outputs, targets, masks)
    return losses[0] * weights[0] + losses[1] * weights[1] + (1 - losses[2]) * weights[2]


@instead(
    LOSS,
    "The squared error is summed, not averaged, over the coordinates",
    check="loss_value",
    evidence=evidence.loss_value,
)
def box_summed(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    losses = task_losses(outputs, targets, masks)
    return losses[0] * weights[0] + 4 * losses[1] * weights[1] + losses[2] * weights[2]


@instead(
    LOSS, "The loss of the classes takes probabilities for logits", check="loss_value", evidence=evidence.loss_value
)
def softmax_twice(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    losses = task_losses((outputs[0].softmax(1), *outputs[1:]), targets, masks)
    return _sum(losses, weights)


@instead(LOSS, "The weights are ignored", check="loss_weights", evidence=evidence.loss_weights)
def weights_ignored(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    return _sum(task_losses(outputs, targets, masks), WEIGHTS)


@instead(
    LOSS, "Weights of the box and of the embedding are swapped", check="loss_weights", evidence=evidence.loss_weights
)
def weights_swapped(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    return _sum(task_losses(outputs, targets, masks), (weights[0], weights[2], weights[1]))


@instead(
    LOSS,
    "One task's loss is taken out of the graph",
    check="trunk_gradient",
    category="gradient",
    evidence=evidence.loss_value,
)
def box_detached(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    losses = task_losses(outputs, targets, masks)
    return losses[0] * weights[0] + losses[1].detach() * weights[1] + losses[2] * weights[2]


@instead(
    LOSS,
    "Missing labels are masked after the loss, so that NaN times zero is NaN",
    check="masked_tasks",
    evidence=evidence.loss_missing,
    issue="https://github.com/pytorch/pytorch/issues/64305",
)
def masked_after_the_loss(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    if masks is None:
        return _sum(task_losses(outputs, targets), weights)
    there = [m.to(outputs[0].dtype) for m in masks]
    each = (
        F.cross_entropy(outputs[0], targets[0].clamp(min=0), reduction="none"),
        ((outputs[1] - targets[1]) ** 2).mean(1),
        1 - F.cosine_similarity(outputs[2], targets[2]),
    )
    return torch.stack(
        [w * (e * m).sum() / m.sum().clamp(min=1) for w, e, m in zip(weights, each, there, strict=True)]
    ).sum()


@instead(
    LOSS,
    "The mean is over the whole batch, not over the images that have the label",
    check="masked_tasks",
    evidence=evidence.loss_missing,
)
def mean_over_the_batch(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    losses = task_losses(outputs, targets, masks)
    shares = losses.new_tensor([1.0] * 3 if masks is None else [float(m.double().mean()) for m in masks])
    return (losses * shares * losses.new_tensor(weights)).sum()


@instead(
    LOSS,
    "A task without labels leaves its head without a gradient",
    check="absent_task",
    category="gradient",
    evidence=evidence.loss_absent,
)
def absent_task_left_out(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    given = [o if masks is None or m.any() else o.detach() for o, m in zip(outputs, masks or (None,) * 3, strict=True)]
    return _sum(task_losses(given, targets, masks), weights)


@instead(
    LOSS,
    "A task without labels is averaged over nothing, which is NaN",
    check="absent_task",
    evidence=evidence.loss_absent,
)
def mean_of_nothing(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    total = _sum(task_losses(outputs, targets, masks), weights)
    empty = masks is not None and not all(m.any() for m in masks)
    return total + outputs[0][:0].mean() if empty else total


@instead(
    LOSS,
    "A class that there is none of counts as the last one",
    check="bad_labels",
    category="forward",
    evidence=evidence.refusals,
)
def classes_clamped(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    clamped = targets[0].clamp(max=outputs[0].shape[1] - 1)
    return _sum(task_losses(outputs, (clamped, *targets[1:]), masks), weights)


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


def _arguments(scale: float, dtype: torch.dtype) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(3, w, generator=generator).to(dtype) for w in (10, 4, 128)]
    outputs[0] *= scale
    targets = (torch.tensor([1, 2, 3]), *(torch.randn(3, w, generator=generator).to(dtype) for w in (4, 128)))
    return outputs, targets


def _overflow(pair: Pair) -> float:
    """One where only the faulty loss overflows for class logits around a hundred, in float32."""
    finite = [bool(loss(*_arguments(100.0, torch.float32)).isfinite()) for loss in (pair.correct, pair.faulty)]
    return float(finite == [True, False])


@instead(
    LOSS,
    "Cross-entropy is the logarithm of a sum of exponentials, which overflows at logits of 89",
    check="loss_value",
    category="precision",
    evidence=_overflow,
)
def sum_of_exponentials(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], masks: Any = None, *, weights: Any = (1.0, 0.5, 0.2)
) -> Tensor:
    rest = multitask_loss(outputs, targets, masks, weights=(0.0, *tuple(weights)[1:]))
    if masks is not None and not bool(masks[0].any()):
        return rest + outputs[0].sum() * 0.0
    logits, classes = (t if masks is None else t[masks[0]] for t in (outputs[0], targets[0]))
    entropy = (logits.exp().sum(1).log() - logits.gather(1, classes[:, None])[:, 0]).mean()
    return rest + weights[0] * entropy


def _wider(pair: Pair) -> float:
    """One where float32 outputs give a loss of another dtype."""
    return float(pair.faulty(*_arguments(1.0, torch.float32)).dtype is not torch.float32)


@instead(
    LOSS, "The loss is float64 whatever the outputs are", check="loss_value", category="precision", evidence=_wider
)
def always_float64(outputs: Sequence[Tensor], targets: Sequence[Tensor], masks: Any = None, **keywords: Any) -> Tensor:
    return multitask_loss([o.double() for o in outputs], targets, masks, **keywords)


def _loss_of(loss: Any, *, far: float = 1.0, hidden: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(3, w, generator=generator, dtype=torch.float64) for w in (10, 4, 128)]
    if hidden:
        outputs[1][1] = torch.nan
    value: Tensor = loss(outputs, (torch.tensor([1, 2, 3]), far * outputs[1].flip(0).nan_to_num(), outputs[2].flip(0)))
    return value


@instead(
    LOSS,
    "The box's error counts linearly above 50: a Huber loss in the place of the squared error",
    check="loss_value",
    evidence=lambda pair: difference(_loss_of(pair.faulty, far=500.0), _loss_of(pair.correct, far=500.0)),
)
def huber_beyond_50(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    losses = task_losses(outputs, targets, masks)
    there = slice(None) if masks is None else masks[1]
    box, wanted = outputs[1][there], targets[1][there]
    if len(box):
        losses = torch.stack([losses[0], 2 * F.huber_loss(box, wanted, delta=50.0), losses[2]])
    return _sum(losses, weights)


@instead(
    LOSS,
    "NaN in an answer counts as zero, so that a network that is lost trains on",
    check="loss_value",
    evidence=lambda pair: float(_loss_of(pair.faulty, hidden=True).isfinite()),
)
def nan_hidden(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    return multitask_loss([o.nan_to_num() for o in outputs], targets, masks, weights=weights)
