"""Multi-task networks, losses and projections that go wrong for weak conflicts, boxes far off, NaN or micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import Pair, difference
from harness.mutants.flat_gradients import take, task_gradients
from harness.mutants.multitask_network import Altered
from harness.mutants.mutant import instead, mutant
from harness.mutants.recipes import LOSS, NETWORK, PROJECTION, WEIGHTING
from harness.mutants.surgery import become
from suites.multitask.model import WEIGHTS, Outputs, UncertaintyWeighting, multitask_loss, pcgrad, task_losses

Tensors = Sequence[Tensor]
Parameters = Sequence[nn.Parameter]


def _given(combine: Any, stale: float = 0.0) -> tuple[list[Tensor], nn.Parameter, list[list[nn.Parameter]]]:
    """The losses of two tasks in weak conflict, whose heads have two parameters, after ``combine``, and before."""
    shared = nn.Parameter(torch.ones(2).double())
    heads = [[nn.Parameter(torch.ones(()).double()) for _ in range(2)] for _ in range(2)]
    for parameter in (shared, *heads[0], *heads[1]) if stale else ():
        parameter.grad = torch.full_like(parameter, stale)
    rows = torch.tensor([[1.0, 0.0], [-1e-4, 1.0]], dtype=torch.float64)
    losses = [(row * shared).sum() * weight + bias for row, (weight, bias) in zip(rows, heads, strict=True)]
    given = list(losses)
    combine(given, [shared], heads)
    return [*given, *losses], shared, heads


def _weak(pair: Pair) -> float:
    grads = [_given(combine)[1].grad for combine in (pair.correct, pair.faulty)]
    assert grads[0] is not None
    assert grads[1] is not None
    return difference(grads[1], grads[0])


@instead(
    PROJECTION,
    "Conflicts of a cosine above -0.001 are left",
    check="projected_gradients",
    category="gradient",
    evidence=_weak,
)
def weak_conflicts_left(losses: Tensors, shared: Parameters, heads: Sequence[Parameters]) -> None:
    rows = task_gradients(losses, shared, heads)
    total = torch.zeros_like(rows[0])
    for row in rows:
        g = row.clone()
        for other in rows:
            product = torch.dot(g, other)
            if product < -1e-3 * g.norm() * other.norm():
                g -= product / other.square().sum() * other
        total += g
    take(shared, total)


@instead(
    PROJECTION,
    "The caller's list of losses is turned round",
    check="projected_gradients",
    category="state",
    evidence=lambda pair: float((lambda found: found[0] is not found[2])(_given(pair.faulty)[0])),
)
def losses_turned_round(losses: list[Tensor], shared: Parameters, heads: Sequence[Parameters]) -> None:
    pcgrad(losses, shared, heads)
    losses.reverse()


@instead(
    PROJECTION,
    "Of each head only the first parameter gets its gradient",
    check="head_gradients",
    category="gradient",
    evidence=lambda pair: float(_given(pair.faulty)[2][0][1].grad is None),
)
def biases_left_out(losses: Tensors, shared: Parameters, heads: Sequence[Parameters]) -> None:
    pcgrad(losses, shared, [head[:1] for head in heads])


def _stale(pair: Pair) -> float:
    """How far the shared gradient is off where there is one before, less how far the head's is."""
    fresh, again = (_given(pair.faulty, stale) for stale in (0.0, 3.0))
    off = [a.grad - f.grad for a, f in ((again[1], fresh[1]), (again[2][0][0], fresh[2][0][0]))]  # type: ignore[operator]
    return abs(float(off[0].mean() - off[1].mean()))


@instead(
    PROJECTION,
    "Gradients that are there before are added to for heads, and overwritten for the trunk",
    check="projected_gradients",
    category="gradient",
    evidence=_stale,
)
def trunk_overwritten(losses: Tensors, shared: Parameters, heads: Sequence[Parameters]) -> None:
    for parameter in shared:
        parameter.grad = None
    pcgrad(losses, shared, heads)


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
    return (losses * losses.new_tensor(tuple(weights))).sum()


@instead(
    LOSS,
    "NaN in an answer counts as zero, so that a network that is lost trains on",
    check="loss_value",
    evidence=lambda pair: float(_loss_of(pair.faulty, hidden=True).isfinite()),
)
def nan_hidden(outputs: Tensors, targets: Tensors, masks: Any = None, *, weights: Any = WEIGHTS) -> Tensor:
    return multitask_loss([o.nan_to_num() for o in outputs], targets, masks, weights=weights)


class Capped(UncertaintyWeighting):
    """Losses above a thousand count as a thousand."""

    def forward(self, losses: Tensor) -> Tensor:
        return super().forward(losses.clamp(max=1e3))


@mutant(
    WEIGHTING,
    "Losses above a thousand count as a thousand, and carry no gradient",
    check="weighted_sum",
    category="gradient",
    evidence=lambda pair: difference(
        *(build(3)(torch.full((3,), 1e4)).detach() for build in (pair.faulty, pair.correct))
    ),
)
def large_losses_capped(module: Any) -> nn.Module:
    return become(module, Capped)


class Clearing(Altered):
    """Starts each pass in train mode without gradients."""

    def forward(self, images: Tensor) -> Outputs:
        if self.training:
            self.zero_grad()
        return super().forward(images)


def _cleared(pair: Pair) -> float:
    model = pair.faulty().train()
    model.box.bias.grad = torch.ones(4)
    model(pair.images(2).float())
    return float(model.box.bias.grad is None)


@mutant(
    NETWORK,
    "Each pass in train mode clears the gradients: of micro-batches only the last one counts",
    check="task_memory",
    category="state",
    evidence=_cleared,
)
def pass_clears_gradients(model: Any) -> nn.Module:
    return become(model, Clearing)


class WideGuard(Altered):
    """Embeddings shorter than a twentieth keep their length."""

    def forward(self, images: Tensor) -> Outputs:
        h = self.backbone(images)
        return Outputs(self.classes(h), self.box(h), F.normalize(self.embedding(h), dim=1, eps=0.05))


def _short(pair: Pair) -> float:
    model = pair.faulty().double().eval()
    with torch.no_grad():
        model.embedding.weight.mul_(1e-4)
        model.embedding.bias.mul_(1e-4)
        return float((model(pair.images(2)).embedding.norm(dim=1) - 1).abs().max())


@mutant(
    NETWORK,
    "The embedding is divided by its length or 0.05, whichever is more",
    check="embedding_norm",
    category="precision",
    evidence=_short,
)
def embedding_guard_too_wide(model: Any) -> nn.Module:
    return become(model, WideGuard)
