"""Shows that a multi-task variant differs, without the checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.probe import Pair, difference, filled

PRESENT = (True, False, True)


def outputs(pair: Pair) -> float:
    """Of any task's output, in eval mode or train mode, with the same weights by name; one where a shape differs."""
    correct, faulty = _networks(pair)
    largest = 0.0
    for train in (False, True):
        ours, theirs = (model.train(train)(pair.images(3)) for model in (correct, faulty))
        largest = max(largest, *(difference(b.detach(), a.detach()) for a, b in zip(ours, theirs, strict=True)))
    return largest


def gradients(pair: Pair) -> float:
    """Of any parameter that both have, for the sum of the tasks' outputs; one where it is missing."""
    grads = []
    for model in _networks(pair):
        total = sum((output * torch.linspace(0.5, 1.5, output.shape[1])).sum() for output in model(pair.images(3)))
        assert isinstance(total, Tensor)
        total.backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    ours, theirs = grads
    missing = [n for n in ours if (ours[n] is None) != (theirs[n] is None)]
    pairs = [(theirs[n], g) for n, g in ours.items()]
    both = [difference(b, a) for b, a in pairs if a is not None and b is not None]
    return 1.0 if missing else max(both, default=0.0)


def sizes(pair: Pair) -> float:
    """How many parameters more or fewer."""
    counts = [sum(p.numel() for p in build().parameters()) for build in (pair.correct, pair.faulty)]
    return float(abs(counts[0] - counts[1]))


def _networks(pair: Pair) -> tuple[nn.Module, nn.Module]:
    correct, faulty = filled(pair.correct().double().eval()), filled(pair.faulty().double().eval())
    known = dict(correct.state_dict())
    own = faulty.state_dict()
    faulty.load_state_dict({n: known.get(n, t) if known.get(n, t).shape == t.shape else t for n, t in own.items()})
    return correct, faulty


def _batch(missing: bool, only: int | None = None) -> tuple[list[Tensor], tuple[Tensor, ...], Any]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(3, w, generator=generator, dtype=torch.float64).requires_grad_() for w in (10, 4, 128)]
    targets = [
        torch.tensor([1, 2, 3]),
        *(torch.randn(3, w, generator=generator, dtype=torch.float64) for w in (4, 128)),
    ]
    if not missing:
        return drawn, tuple(targets), None
    there = torch.tensor(PRESENT)
    masks = [there, ~there, there | True]
    if only is not None:
        masks = [torch.full((3,), number != only) for number in range(3)]
    targets[0] = targets[0].masked_fill(~masks[0], -1)
    targets[1] = targets[1].masked_fill(~masks[1][:, None], float("nan"))
    targets[2] = targets[2].masked_fill(~masks[2][:, None], float("nan"))
    return drawn, tuple(targets), tuple(masks)


def _compared(pair: Pair, *, missing: bool = False, only: int | None = None, **keywords: Any) -> float:
    results = []
    for loss in (pair.correct, pair.faulty):
        given, targets, masks = _batch(missing, only)
        try:
            value = loss(given, targets, masks, **keywords)
            value.backward()
        except Exception:  # what can't be trained with is faulty beyond doubt
            return 1.0
        if any(t.grad is None for t in given):
            return 1.0
        results.append([value.detach(), *(t.grad for t in given)])
    return max(
        difference(theirs, ours) if bool(ours.any()) else float(theirs.abs().max())
        for ours, theirs in zip(*results, strict=True)
    )


def loss_value(pair: Pair) -> float:
    """Of the loss or its gradients for a batch with all labels; one where it raises or a gradient is missing."""
    return _compared(pair)


def loss_weights(pair: Pair) -> float:
    """As `loss_value`, with other weights."""
    return _compared(pair, weights=(0.0, 2.0, 3.0))


def loss_missing(pair: Pair) -> float:
    """As `loss_value`, with labels missing."""
    return _compared(pair, missing=True)


def loss_absent(pair: Pair) -> float:
    """As `loss_value`, with one task's labels all missing."""
    return max(_compared(pair, missing=True, only=task) for task in range(3))


def refusals(pair: Pair) -> float:
    """How many are accepted: classes out of range and a batch without labels."""
    given, (_, box, embedding), _ = _batch(False)
    nothing = tuple(torch.zeros(3, dtype=torch.bool) for _ in range(3))
    accepted = 0
    wrong = [(torch.tensor([1, number, 2]), None) for number in (10, -1)]
    for classes, masks in (*wrong, (torch.tensor([1, 2, 3]), nothing)):
        try:
            pair.faulty(given, (classes, box, embedding), masks)
        except Exception:
            continue
        accepted += 1
    return float(accepted)


def weighting(pair: Pair) -> float:
    """Of the weighted sum or of any gradient, for log-variances drawn at random; one where one is missing."""
    results = []
    for build in (pair.correct, pair.faulty):
        module = build(3).double()
        for number, parameter in enumerate(module.parameters()):
            nn.init.constant_(parameter, -0.7 + number)
        losses = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64, requires_grad=True)
        value = module(losses)
        value.backward()
        results.append([value.detach(), losses.grad, *(p.grad for p in module.parameters())])
    ours, theirs = results
    if len(ours) != len(theirs) or any(t is None for t in theirs):
        return 1.0
    return max(difference(b, a) for a, b in zip(ours, theirs, strict=True))


def projection(pair: Pair) -> float:
    """Of the gradients of two tasks on a shared matrix, a shared vector and their heads, in conflict and in accord; one
    where a gradient is missing."""
    largest = 0.0
    for second in ([-1.0, 0.9], [1.0, 0.1]):
        for seed in range(3):
            ours, theirs = (_projected(combine, second, seed) for combine in (pair.correct, pair.faulty))
            if any(t is None for t in theirs):
                return 1.0
            largest = max(largest, *(difference(b, a) for a, b in zip(ours, theirs, strict=True)))
    return largest


def _projected(combine: Callable[..., Any], second: list[float], seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shared = [nn.Parameter(normal(3, 2)), nn.Parameter(normal(2))]
    heads = [nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in ([1.0, 0.2], second)]
    images, weights = normal(4, 3), [normal(4), normal(4)]
    features = torch.tanh(images @ shared[0] + shared[1])
    losses = [(features @ head * weight).sum() for head, weight in zip(heads, weights, strict=True)]
    combine(losses, shared, [[head] for head in heads])
    return [p.grad for p in (*shared, *heads)]


def task_gradients(
    losses: Sequence[Tensor], shared: Sequence[nn.Parameter], heads: Sequence[Sequence[nn.Parameter]]
) -> list[Tensor]:
    """Each task's gradient of all shared elements; those of its head are written to ``grad``."""
    rows = []
    for loss, own in zip(losses, heads, strict=True):
        grads = torch.autograd.grad(loss, [*shared, *own], retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads[: len(shared)]]))
        for parameter, gradient in zip(own, grads[len(shared) :], strict=True):
            parameter.grad = gradient
    return rows


def take(shared: Sequence[nn.Parameter], row: Tensor) -> None:
    """Write a row to the shared parameters' ``grad``."""
    for parameter, piece in zip(shared, row.split([p.numel() for p in shared]), strict=True):
        parameter.grad = piece.view_as(parameter)
