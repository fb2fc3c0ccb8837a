"""Gradient projections that are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.probe import Pair, difference
from harness.mutants.variant import instead
from suites.multitask.model import pcgrad
from suites.multitask.mutants import probe as evidence
from suites.multitask.mutants.base_models import PROJECTION
from suites.multitask.mutants.losses import Tensors
from suites.multitask.mutants.probe import take, task_gradients


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


def _three_tasks(pair: Pair) -> float:
    """From the nearest of what the correct one gives in forty runs, in which it meets the tasks in any order."""
    rows = torch.tensor([[1.0, 0.2, 0.0], [-0.6, 1.0, 0.3], [-0.5, 0.4, 1.0]], dtype=torch.float64)

    def given(combine: Any, seed: int) -> Tensor:
        torch.manual_seed(seed)
        shared, heads = nn.Parameter(torch.ones(3).double()), [nn.Parameter(torch.ones(()).double()) for _ in rows]
        combine(
            [(row * shared).sum() * head for row, head in zip(rows, heads, strict=True)], [shared], [[h] for h in heads]
        )
        assert shared.grad is not None
        return shared.grad

    got = given(pair.faulty, 0)
    return min(difference(got, given(pair.correct, seed)) for seed in range(40))


@instead(
    PROJECTION,
    "Each conflict is measured, and taken away, on the original gradient, not on what earlier projections left",
    check="projected_gradients",
    category="gradient",
    evidence=_three_tasks,
)
def projects_the_originals(
    losses: Sequence[Tensor], shared: Sequence[nn.Parameter], heads: Sequence[Sequence[nn.Parameter]]
) -> None:
    rows = task_gradients(losses, shared, heads)
    total = torch.zeros_like(rows[0])
    for i, row in enumerate(rows):
        total += row
        for j, other in enumerate(rows):
            if i != j:
                total -= torch.clamp(torch.dot(row, other), max=0) / other.square().sum().clamp_min(1e-30) * other
    take(shared, total)


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
