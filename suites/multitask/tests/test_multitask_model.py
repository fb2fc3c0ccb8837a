"""Our multi-task network and losses: any backbone and head sizes, what they refuse, and a step with learnt weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.bench.drawn_examples import examples
from suites.multitask.model import (
    MultiTask,
    UncertaintyWeighting,
    multitask_loss,
    pcgrad,
    task_losses,
    uncertainty_weighting,
)


def tiny(width: int = 6, **heads: int) -> MultiTask:
    """The three heads on two linear layers."""
    torch.manual_seed(0)
    return MultiTask(nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Tanh()), width, **heads)


@examples(0.5)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 7), st.integers(1, 20))
def test_shapes_of_any_heads(batch: int, classes: int, box: int, embedding: int) -> None:
    model = tiny(num_classes=classes, box=box, embedding=embedding)
    out = model(torch.randn(batch, 3, 2, 2))
    assert [tuple(t.shape) for t in out] == [(batch, classes), (batch, box), (batch, embedding)]
    assert torch.allclose(out.embedding.norm(dim=1), torch.ones(batch), atol=1e-5)


def batch(count: int = 4) -> tuple[Any, Any]:
    """Outputs of the tiny network, and targets."""
    torch.manual_seed(1)
    outputs = tiny()(torch.randn(count, 3, 2, 2))
    return outputs, (torch.arange(count), torch.randn(count, 4), torch.randn(count, 128))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o, t: multitask_loss(o, t, weights=(1, 2)), r"weights=\(1, 2\): expected 3 numbers, none below 0"),
        (lambda o, t: multitask_loss(o, t, weights=(1, -1, 1)), "none below 0"),
        (lambda o, t: multitask_loss(o, (t[0] + 8, *t[1:])), "class 11 is out of range: there are 10 classes, from 0"),
        (lambda o, t: multitask_loss(o, (t[0] - 2, *t[1:])), "class -2 is out of range"),
        (lambda o, t: task_losses(o, t, [torch.zeros(4, dtype=torch.bool)] * 3), "every task is masked"),
        (lambda o, t: task_losses(o, t, [torch.ones(4)] * 3), r"mask of classes: \(4,\) of torch.float32; expected"),
        (lambda o, t: pcgrad([], []), "expected one head for each loss, and a loss"),
        (lambda o, t: pcgrad([o[0].sum()], [], [[], []]), "1 losses and 2 heads"),
        (lambda o, t: UncertaintyWeighting(0), "tasks=0: must be at least 1"),
        (lambda o, t: tiny(box=0), "box=0: must be at least 1"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*batch())


def test_learnt_weights_follow_the_losses() -> None:
    """Trained on fixed losses, a task's weight comes to half the inverse of its loss (the optimum of equation 10)."""
    module = uncertainty_weighting(3).double()
    losses = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        module(losses).backward()
        optimizer.step()
    assert torch.allclose(torch.exp(-module.log_variance), 0.5 / losses, rtol=1e-6)


def test_projected_step_on_the_network() -> None:
    """Every parameter receives a finite gradient, and heads the one that their own loss gives."""
    model = tiny().double()
    torch.manual_seed(2)
    targets = (torch.arange(4), torch.randn(4, 4).double(), torch.randn(4, 128).double())
    losses = list(task_losses(model(torch.randn(4, 3, 2, 2).double()), targets))
    (expected,) = torch.autograd.grad(losses[1], [model.box.weight], retain_graph=True)
    heads = [list(m.parameters()) for m in (model.classes, model.box, model.embedding)]
    pcgrad(losses, model.backbone.parameters(), heads)
    assert model.box.weight.grad is not None
    assert torch.equal(model.box.weight.grad, expected)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
