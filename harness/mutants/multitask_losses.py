"""Combined losses, learnt weights and projections that are not what they should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants import multitask_evidence as evidence
from harness.mutants.mutant import instead, mutant
from harness.mutants.recipes import LOSS, PROJECTION, WEIGHTING
from harness.mutants.surgery import become
from suites.multitask.model import WEIGHTS, UncertaintyWeighting, task_losses

Tensors = Sequence[Tensor]


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
    return (losses * losses.new_tensor(weights)).sum()


@instead(LOSS, "The weights are ignored", check="loss_weights", evidence=evidence.loss_weights)
def weights_ignored(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    losses = task_losses(outputs, targets, masks)
    return (losses * losses.new_tensor(WEIGHTS)).sum()


@instead(
    LOSS, "Weights of the box and of the embedding are swapped", check="loss_weights", evidence=evidence.loss_weights
)
def weights_swapped(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    losses = task_losses(outputs, targets, masks)
    return (losses * losses.new_tensor((weights[0], weights[2], weights[1]))).sum()


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
        return (task_losses(outputs, targets) * outputs[0].new_tensor(weights)).sum()
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
    return (task_losses(given, targets, masks) * outputs[0].new_tensor(weights)).sum()


@instead(
    LOSS,
    "A task without labels is averaged over nothing, which is NaN",
    check="absent_task",
    evidence=evidence.loss_absent,
)
def mean_of_nothing(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    total = (task_losses(outputs, targets, masks) * outputs[0].new_tensor(weights)).sum()
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
    return (task_losses(outputs, (clamped, *targets[1:]), masks) * outputs[0].new_tensor(weights)).sum()


class Plain(UncertaintyWeighting):
    """The log-variances as a plain attribute."""

    def __init__(self, tasks: int = 3) -> None:
        super().__init__(tasks)
        value = self.log_variance.detach()
        del self.log_variance
        self.register_buffer("log_variance", value)


@instead(
    WEIGHTING,
    "The log-variances are no parameters, so that no optimizer finds them",
    check="log_variances",
    evidence=evidence.weighting,
)
def no_parameters(tasks: int = 3) -> nn.Module:
    return Plain(tasks)


class Unpriced(UncertaintyWeighting):
    """Nothing to pay for a large variance."""

    def forward(self, losses: Tensor) -> Tensor:
        return (torch.exp(-self.log_variance) * losses).sum()


@mutant(
    WEIGHTING,
    "Without the price of a variance all weights go to zero",
    check="weighted_sum",
    category="training",
    evidence=evidence.weighting,
)
def variance_for_free(module: Any) -> nn.Module:
    return become(module, Unpriced)


class Growing(UncertaintyWeighting):
    """The sign of the exponent lost."""

    def forward(self, losses: Tensor) -> Tensor:
        return (torch.exp(self.log_variance) * losses + 0.5 * self.log_variance).sum()


@mutant(
    WEIGHTING,
    "The weight grows with the variance",
    check="weighted_sum",
    category="training",
    evidence=evidence.weighting,
)
def sign_lost(module: Any) -> nn.Module:
    return become(module, Growing)


class Deviations(UncertaintyWeighting):
    """The parameter taken for the standard deviation, which may come to zero or below."""

    def forward(self, losses: Tensor) -> Tensor:
        return (losses / (2 * (1 + self.log_variance) ** 2) + torch.log((1 + self.log_variance).abs())).sum()


@mutant(
    WEIGHTING,
    "The parameter is the deviation, not the log-variance",
    check="weighted_sum",
    category="training",
    evidence=evidence.weighting,
)
def deviation_as_parameter(module: Any) -> nn.Module:
    return become(module, Deviations)


class Cut(UncertaintyWeighting):
    """The weights without their gradient."""

    def forward(self, losses: Tensor) -> Tensor:
        return (torch.exp(-self.log_variance.detach()) * losses + 0.5 * self.log_variance).sum()


@mutant(
    WEIGHTING,
    "The log-variance feels its price alone, not its loss",
    check="weighting_learns",
    category="gradient",
    evidence=evidence.weighting,
)
def weight_detached(module: Any) -> nn.Module:
    return become(module, Cut)


def _flat(parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
    grads = torch.autograd.grad(loss, list(parameters), retain_graph=True)
    return torch.cat([g.reshape(-1) for g in grads])


def _write(parameters: Sequence[nn.Parameter], flat: Tensor) -> None:
    at = 0
    for parameter in parameters:
        parameter.grad = flat[at : at + parameter.numel()].view_as(parameter).clone()
        at += parameter.numel()


def _heads(losses: Tensors, heads: Sequence[Sequence[nn.Parameter]]) -> None:
    for loss, own in zip(losses, heads, strict=True):
        _write(list(own), _flat(list(own), loss))


@instead(PROJECTION, "The gradients are added as they are", check="projected_gradients", evidence=evidence.projection)
def plain_sum(losses: Tensors, shared: Any, heads: Any) -> None:
    _heads(losses, heads)
    _write(shared, torch.stack([_flat(shared, loss) for loss in losses]).sum(0))


@instead(
    PROJECTION,
    "Conflict is judged for each tensor by itself",
    check="projected_gradients",
    evidence=evidence.projection,
)
def tensor_by_tensor(losses: Tensors, shared: Any, heads: Any) -> None:
    _heads(losses, heads)
    for parameter in shared:
        _write([parameter], _projected([_flat([parameter], loss) for loss in losses]))


def _projected(gradients: Tensors, against: Tensors | None = None, *, always: bool = False) -> Tensor:
    total = torch.zeros_like(gradients[0])
    for number, gradient in enumerate(gradients):
        own = gradient.clone()
        for other, second in enumerate(against or gradients):
            if other != number and (always or own @ second < 0):
                own = own - (own @ second) / (second @ second) * second
        total = total + own
    return total


@instead(
    PROJECTION,
    "Gradients that agree are projected too",
    check="projected_gradients",
    evidence=evidence.projection,
)
def always_projected(losses: Tensors, shared: Any, heads: Any) -> None:
    _heads(losses, heads)
    _write(shared, _projected([_flat(shared, loss) for loss in losses], always=True))


@instead(
    PROJECTION,
    "The projection adds what it should take away",
    check="projected_gradients",
    evidence=evidence.projection,
)
def projected_the_wrong_way(losses: Tensors, shared: Any, heads: Any) -> None:
    _heads(losses, heads)
    gradients = [_flat(shared, loss) for loss in losses]
    _write(shared, 2 * torch.stack(gradients).sum(0) - _projected(gradients))


@instead(
    PROJECTION,
    "The gradient of a head is divided by the number of tasks",
    check="head_gradients",
    evidence=evidence.projection,
)
def heads_share_a_scale(losses: Tensors, shared: Any, heads: Any) -> None:
    PROJECTION.factory(losses, shared, heads)
    for own in heads:
        for parameter in own:
            parameter.grad = parameter.grad / len(losses)


@instead(
    PROJECTION,
    "Heads are left without gradients",
    check="head_gradients",
    category="gradient",
    evidence=evidence.projection,
)
def heads_forgotten(losses: Tensors, shared: Any, heads: Any) -> None:
    PROJECTION.factory(losses, shared)
