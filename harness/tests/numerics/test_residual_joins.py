from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.numerics.residual_joins import branch_gradients, joins

WIDTH = 4


class Net(nn.Module):
    """A stem, one block written as ``write`` says, and a head."""

    def __init__(self, write: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.shortcut = nn.Conv2d(WIDTH, WIDTH, 1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.gate = nn.Conv2d(WIDTH, WIDTH, 1)
        self.bias = nn.Parameter(torch.ones(WIDTH, 1, 1))
        self.head = nn.Linear(WIDTH, 2)
        self.write = write

    def forward(self, x: Tensor) -> Any:
        return self.head(self.write(self, self.stem(x)).relu().mean((2, 3)))


def plain(net: Net, x: Tensor) -> Any:
    return net.conv(x) + x


def swapped(net: Net, x: Tensor) -> Any:
    return x + net.norm(net.conv(x)).relu()


def in_place(net: Net, x: Tensor) -> Any:
    y = net.norm(net.conv(x))
    y += x
    return y


def projected(net: Net, x: Tensor) -> Any:
    return net.norm(net.conv(x)) + net.shortcut(x)


def three_times(net: Net, x: Tensor) -> Any:
    for _ in range(3):
        x = net.conv(x).relu() + x
    return x


def negative(net: Net, x: Tensor) -> Any:
    return x - net.conv(x)


def added_with_a_weight(net: Net, x: Tensor) -> Any:
    return torch.add(x, net.conv(x), alpha=0.5)


def identity_detached(net: Net, x: Tensor) -> Any:
    return net.conv(x) + x.detach()


def branch_without_gradient(net: Net, x: Tensor) -> Any:
    with torch.no_grad():
        y = net.conv(x)
    return x + y


def no_skip(net: Net, x: Tensor) -> Any:
    return net.conv(x)


def gated(net: Net, x: Tensor) -> Any:
    return x * torch.sigmoid(net.gate(x.mean((2, 3), keepdim=True)))


def biased(net: Net, x: Tensor) -> Any:
    return net.conv(x) + net.bias


def shifted(net: Net, x: Tensor) -> Any:
    return net.conv(x) + 1.0


def norm_by_hand(net: Net, x: Tensor) -> Any:
    centred = x - x.mean((0, 2, 3), keepdim=True)
    return centred / (centred.pow(2).mean((0, 2, 3), keepdim=True) + 1e-5).sqrt() * net.bias + net.bias


def found_in(write: Callable[[Net, Tensor], Any]) -> tuple[int, int]:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 6, 6, requires_grad=True)
    found, cuts = joins(Net(write)(images), images)
    return len(found), len(cuts)


@pytest.mark.parametrize(
    ("write", "count"),
    [
        (plain, 1),
        (swapped, 1),
        (in_place, 1),
        (projected, 1),
        (three_times, 3),
        (negative, 1),
        (added_with_a_weight, 1),
        (no_skip, 0),
        (gated, 0),
        (biased, 0),
        (shifted, 0),
        (norm_by_hand, 0),
    ],
)
def test_joins_are_counted_in_any_writing(write: Callable[[Net, Tensor], Any], count: int) -> None:
    assert found_in(write)[0] == count


@pytest.mark.parametrize("write", [identity_detached, branch_without_gradient])
def test_a_branch_without_gradient_is_a_cut(write: Callable[[Net, Tensor], Any]) -> None:
    assert found_in(write) == (0, 1)


def test_each_branch_alone_gives_its_own_gradient() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    net = Net(plain).double()
    ((join,), _) = joins(net(images), images)
    assert join.shape == (2, WIDTH, 6, 6)
    assert join.identity
    arriving, (first, second) = branch_gradients(join, seed=1)
    through_conv = nn.functional.conv_transpose2d(arriving, net.conv.weight, padding=1)
    assert first is not None
    assert second is not None
    assert torch.allclose(first, through_conv)
    assert torch.equal(second, arriving)


def test_a_projection_is_no_identity() -> None:
    images = torch.randn(2, 3, 6, 6, requires_grad=True)
    ((join,), _) = joins(Net(projected)(images), images)
    assert not join.identity
    assert all(g is not None and bool(g.any()) for g in branch_gradients(join, seed=1)[1])
