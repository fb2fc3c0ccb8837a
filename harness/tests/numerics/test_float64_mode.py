from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.numerics.float64_mode import Float64Mode

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4) / 3


def plain(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (lambda x: x.float(), plain),
        (lambda x: x.to(torch.float32), plain),
        (lambda x: x.type(torch.float32), plain),
        (lambda x: x.to(torch.zeros(1)), plain),
        (lambda x: F.softmax(x, dim=-1, dtype=torch.float32), lambda x: F.softmax(x, dim=-1)),
        (lambda x: F.softmax(x.float(), dim=-1).to(x.dtype), lambda x: F.softmax(x, dim=-1)),
        (lambda x: x.sum(-1, dtype=torch.float32), lambda x: x.sum(-1)),
        (lambda x: x.mean(dtype=torch.float32), lambda x: x.mean()),
        (lambda x: x.mean((0, 1), dtype=torch.float32), lambda x: x.mean((0, 1))),
        (lambda x: F.layer_norm(x.float(), (4,)).to(x.dtype), lambda x: F.layer_norm(x, (4,))),
    ],
)
def test_float32_on_purpose_stays_float64(
    written: Callable[[Tensor], Tensor], meant: Callable[[Tensor], Tensor]
) -> None:
    with Float64Mode():
        got = written(X)
    assert got.dtype is torch.float64
    assert torch.equal(got, meant(X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_a_deviation_and_stays(dtype: torch.dtype) -> None:
    with Float64Mode():
        got = X.to(dtype).double()
    assert not torch.equal(got, X)


def test_float32_inputs_and_labels_are_left_alone() -> None:
    with Float64Mode():
        assert X.long().dtype is torch.int64
        assert torch.zeros(2).float().dtype is torch.float32
        assert torch.arange(3).float().dtype is torch.float32


def test_gradients_pass_in_float64() -> None:
    x = X.clone().requires_grad_()
    with Float64Mode():
        x.float().pow(2).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * X)
