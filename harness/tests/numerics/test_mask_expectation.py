"""Dropout written by hand, with its draws answered by their expectation: the identity where it is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.numerics.controlled_rng import ControlledRng, Recorded

KEEP = 0.9
RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "comparison": lambda x: x * (torch.rand_like(x) >= 1 - KEEP) / KEEP,
    "the other side": lambda x: x * (torch.rand_like(x) < KEEP) / KEEP,
    "mirrored": lambda x: x * (1 - torch.rand_like(x) > 1 - KEEP).to(x) / KEEP,
    "floor": lambda x: x * torch.floor(torch.rand_like(x) + KEEP) / KEEP,
    "ceil": lambda x: x * torch.ceil(torch.rand_like(x) - (1 - KEEP)) / KEEP,
    "ceil in place": lambda x: x.div(KEEP) * torch.rand(x.shape, dtype=x.dtype).sub_(1 - KEEP).ceil_(),
    "heaviside": lambda x: x * torch.heaviside(torch.rand_like(x) - (1 - KEEP), x.new_zeros(())) / KEEP,
    "floor in place": lambda x: x.div(KEEP) * torch.rand(x.shape, dtype=x.dtype).add_(KEEP).floor_(),
    "shifted": lambda x: x * ((torch.rand_like(x) - KEEP) <= 0) / KEEP,
    "where": lambda x: torch.where(torch.rand_like(x) < KEEP, x / KEEP, 0.0),
    "masked_fill": lambda x: x.masked_fill(torch.rand_like(x) <= 1 - KEEP, 0.0) / KEEP,
    "masked_fill in place": lambda x: (x / KEEP).masked_fill_(~(torch.rand_like(x) < KEEP), 0.0),
    "not": lambda x: x * (~(torch.rand_like(x) < 1 - KEEP)) * (1 / KEEP),
    "logical_not": lambda x: x * (torch.rand_like(x) < 1 - KEEP).logical_not() / KEEP,
    "mask divided": lambda x: x * ((torch.rand_like(x) < KEEP) / KEEP),
    "mask first": lambda x: (torch.rand_like(x) < KEEP) * x / KEEP,
    "uniform_": lambda x: x * torch.empty_like(x).uniform_().lt(KEEP).to(x.dtype) / KEEP,
    "cast twice": lambda x: x * (torch.rand_like(x) < KEEP).bool().to(x.dtype) / KEEP,
    "compared with a tensor": lambda x: x * (torch.rand_like(x) < torch.tensor(KEEP)) / KEEP,
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, KEEP)) / KEEP,
    "bernoulli_": lambda x: x * torch.empty_like(x).bernoulli_(KEEP) / KEEP,
    "library": lambda x: torch.nn.functional.dropout(x, 1 - KEEP),
}
WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "not rescaled": lambda x: x * (torch.rand_like(x) < KEEP),
    "rescaled by the rate": lambda x: x * (torch.rand_like(x) < KEEP) / (1 - KEEP),
    "the rate taken for the other": lambda x: x * (torch.rand_like(x) < 1 - KEEP) / KEEP,
    "where not rescaled": lambda x: torch.where(torch.rand_like(x) < KEEP, x, 0.0),
    "drops what it should keep": lambda x: x.masked_fill(torch.rand_like(x) < KEEP, 0.0) / KEEP,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_dropout_is_the_identity_forward_and_backward(name: str) -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    with ControlledRng(batch=4, elements="identity") as randomness:
        out = RIGHT[name](x)
        out.sum().backward()
    torch.testing.assert_close(out, x)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    assert len(randomness.draws) == 1


@pytest.mark.parametrize("name", WRONG)
def test_wrong_dropout_is_not(name: str) -> None:
    x = torch.randn(4, 5, dtype=torch.float64)
    with ControlledRng(batch=4, elements="identity"):
        out = WRONG[name](x)
    assert not torch.allclose(out, x)


def test_numbers_of_another_draw_are_left_alone() -> None:
    """What decides for a sample follows the levels, and comparisons of activations are what they are."""
    x = torch.randn(4, 5, dtype=torch.float64)
    with ControlledRng((0.1, 0.95, 0.5, 0.95), batch=4, elements="identity"):
        kept = x * (torch.rand(4, 1, dtype=x.dtype) < KEEP)
        positive = torch.where(x > 0, x, 0.0)
    assert torch.equal(kept, x * torch.tensor([1, 0, 1, 0], dtype=x.dtype)[:, None])
    assert torch.equal(positive, x.clamp(min=0))


def test_draws_are_recorded_by_what_they_decide() -> None:
    torch.manual_seed(0)
    with Recorded(4) as recorded:
        sample, element = torch.rand(4, 1), torch.empty(4, 5).bernoulli_(0.5)
        torch.rand(())
    assert torch.equal(recorded.of("sample"), sample.flatten())
    assert torch.equal(recorded.of("element"), element.flatten())
    assert recorded.of("batch").numel() == 1
