from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.numerics.controlled_rng import ControlledRng, Draw, gathered

KEEP = 0.8
BATCH = 4
LEVELS = (0.5, 0.999, 0.79, 0.81)
"""Of four samples; kept below the probability of keeping: the first and the third."""


def images() -> Tensor:
    return torch.arange(1.0, 1 + BATCH * 6).reshape(BATCH, 2, 3, 1)


def shape_of(x: Tensor) -> tuple[int, ...]:
    return (len(x), 1, 1, 1)


def bernoulli_in_place(x: Tensor) -> Tensor:
    return x * x.new_empty(shape_of(x)).bernoulli_(KEEP).div_(KEEP)


def bernoulli_of_probabilities(x: Tensor) -> Tensor:
    return x * torch.bernoulli(torch.full(shape_of(x), KEEP)) / KEEP


def bernoulli_with_p(x: Tensor) -> Tensor:
    return x * torch.bernoulli(torch.zeros(shape_of(x)), p=KEEP) / KEEP


def rand_below(x: Tensor) -> Tensor:
    return x * (torch.rand(shape_of(x)) < KEEP) / KEEP


def rand_like_below(x: Tensor) -> Tensor:
    return x * (torch.rand_like(x[:, :1, :1, :1]) < KEEP) / KEEP


def uniform_below(x: Tensor) -> Tensor:
    return x * (torch.empty(shape_of(x)).uniform_() < KEEP) / KEEP


PER_SAMPLE: list[Callable[[Tensor], Any]] = [
    bernoulli_in_place,
    bernoulli_of_probabilities,
    bernoulli_with_p,
    rand_below,
    rand_like_below,
    uniform_below,
]


def floor_of_sum(x: Tensor) -> Tensor:
    return x * torch.floor(KEEP + torch.rand(shape_of(x))) / KEEP


@pytest.mark.parametrize("drop", [*PER_SAMPLE, floor_of_sum])
def test_at_one_half_every_sample_is_kept_and_rescaled(drop: Callable[[Tensor], Any]) -> None:
    with ControlledRng(0.5, batch=BATCH) as control:
        got = drop(images())
    assert torch.allclose(got, images() / KEEP)
    (draw,) = control.draws
    assert draw.scope(BATCH) == "sample"
    assert not draw.trivial


@pytest.mark.parametrize("drop", PER_SAMPLE)
def test_levels_decide_per_sample(drop: Callable[[Tensor], Any]) -> None:
    with ControlledRng(LEVELS, batch=BATCH):
        got = drop(images())
    kept = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(-1, 1, 1, 1)
    assert torch.allclose(got, kept * images() / KEEP)


def test_the_floor_of_a_sum_keeps_at_high_levels() -> None:
    with ControlledRng(tuple(1 - level for level in LEVELS), batch=BATCH):
        got = floor_of_sum(images())
    kept = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(-1, 1, 1, 1)
    assert torch.allclose(got, kept * images() / KEEP)


def functional_dropout(x: Tensor) -> Tensor:
    return F.dropout(x, 1 - KEEP)


def dropout_in_place(x: Tensor) -> Tensor:
    return F.dropout(x.clone(), 1 - KEEP, inplace=True)


def dropout_module(x: Tensor) -> Any:
    return nn.Dropout(1 - KEEP).train()(x)


def native(x: Tensor) -> Tensor:
    return torch.native_dropout(x, 1 - KEEP, True)[0]


DROPOUTS: list[Callable[[Tensor], Any]] = [functional_dropout, dropout_in_place, dropout_module, native]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("drop", DROPOUTS)
def test_dropout_keeps_every_element(drop: Callable[[Tensor], Any], gradients: bool) -> None:
    for elements, factor in (("scaled", 1 / KEEP), ("identity", 1.0)):
        x = images().requires_grad_(gradients)
        with ControlledRng(0.5, batch=BATCH, elements=elements) as control:  # type: ignore[arg-type]
            got = drop(x)
            if gradients:
                got.sum().backward()
        assert torch.allclose(got, x * factor)
        assert [d.scope(BATCH) for d in control.draws] == ["element"]
        assert control.draws[0].probability == pytest.approx(KEEP)
        if gradients:
            assert x.grad is not None
            assert torch.allclose(x.grad, torch.full_like(x, factor))


@pytest.mark.parametrize("drop", DROPOUTS)
def test_levels_per_sample_leave_elements_alone(drop: Callable[[Tensor], Any]) -> None:
    with ControlledRng(LEVELS, batch=BATCH, elements="identity"):
        assert torch.allclose(drop(images()), images())


def test_identity_leaves_stochastic_depth_alone() -> None:
    with ControlledRng(LEVELS, batch=BATCH, elements="identity"):
        got = bernoulli_in_place(images())
    assert not bool(got[1].any())


def test_one_number_for_the_batch_is_seen() -> None:
    with ControlledRng(0.5, batch=BATCH) as control:
        images() * (torch.rand(1) < KEEP)
    assert [d.scope(BATCH) for d in control.draws] == ["batch"]


def sample_by_sample(x: Tensor) -> Tensor:
    return torch.stack([image / KEEP * float(torch.rand(()) < KEEP) for image in x])


def one_image_each(x: Tensor) -> Tensor:
    return torch.cat([x[i : i + 1] * torch.bernoulli(torch.full((1, 1, 1, 1), KEEP)) / KEEP for i in range(len(x))])


@pytest.mark.parametrize("drop", [sample_by_sample, one_image_each])
def test_a_loop_over_samples_draws_per_sample(drop: Callable[[Tensor], Tensor]) -> None:
    kept = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(-1, 1, 1, 1)
    with ControlledRng(LEVELS, batch=BATCH) as control:
        for _ in range(2):  # one branch after the other
            assert torch.allclose(drop(images()), kept * images() / KEEP)
    with ControlledRng(0.5, batch=BATCH - 1) as fewer:
        for _ in range(2):
            drop(images()[1:])
    assert [d.scope(BATCH) for d in gathered(control.draws, BATCH, fewer.draws, BATCH - 1)] == ["sample"] * 2


def test_a_number_for_the_batch_is_none_for_a_sample_however_often_it_is_drawn() -> None:
    draws = [Draw((1,), "uniform", None)] * BATCH
    assert gathered(draws, BATCH, draws, BATCH - 1) == draws


def test_a_loop_over_samples_has_a_mask_for_each() -> None:
    rows, fewer = ([Draw((20,), "dropout", KEEP)] * n for n in (BATCH, BATCH - 1))
    assert gathered(rows, BATCH, fewer, BATCH - 1) == [Draw((BATCH, 20), "dropout", KEEP)]
    assert gathered(rows, BATCH, rows, BATCH - 1) == rows


def test_noise_is_seen_and_silenced() -> None:
    with ControlledRng(0.5, batch=BATCH) as control:
        draws = (torch.randn(3), torch.randn_like(images()), torch.empty(2).normal_(5.0, 1.0))
    assert [d.kind for d in control.draws] == ["normal"] * 3
    assert [float(d.mean()) for d in draws] == [0.0, 0.0, 5.0]


def test_rates_of_zero_and_one_are_trivial() -> None:
    assert Draw((4,), "bernoulli", 1.0).trivial
    assert Draw((4,), "bernoulli", 0.0).trivial
    assert not Draw((4,), "uniform", None).trivial


def test_nothing_is_drawn_in_eval_mode() -> None:
    with ControlledRng(0.5, batch=BATCH) as control:
        x = images()
        assert torch.equal(nn.Dropout(0.5).eval()(x), x)
    assert control.draws == []


def test_a_uniform_range_is_kept() -> None:
    with ControlledRng(0.25, batch=BATCH):
        assert torch.allclose(torch.empty(BATCH).uniform_(-1, 3), torch.zeros(BATCH))
