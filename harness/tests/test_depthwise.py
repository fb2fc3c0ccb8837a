"""Depthwise convolutions in float64 equal torch's own, in every setting, with both backward passes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.depthwise import shortcut
from harness.lifting import LiftFloat32
from harness.strategies import examples

aten = torch.ops.aten


def outcome(
    settings: dict[str, int],
    sides: tuple[int, int, int],
    kernel: tuple[int, int],
    layout: torch.memory_format,
    bias: bool,
) -> list[torch.Tensor]:
    torch.manual_seed(3)
    batch, height, width = sides
    images = torch.randn(batch, 5, height, width, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    weight = torch.randn(5, 1, *kernel, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(5, dtype=torch.float64, requires_grad=True) if bias else None
    out = torch.nn.functional.conv2d(images, weight, offset, groups=5, **settings)
    given = [t for t in (images, weight, offset) if t is not None]
    gradients = torch.autograd.grad(out.square().sum(), given, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), given[:2])
    return [out, *gradients, *second]


@examples(0.5)
@given(
    settings=st.fixed_dictionaries(
        {"stride": st.integers(1, 3), "padding": st.integers(0, 3), "dilation": st.integers(1, 2)}
    ),
    sides=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    bias=st.booleans(),
)
def test_equals_torch(
    settings: dict[str, int],
    sides: tuple[int, int, int],
    kernel: tuple[int, int],
    layout: torch.memory_format,
    bias: bool,
) -> None:
    try:
        expected = outcome(settings, sides, kernel, layout, bias)
    except RuntimeError:  # the kernel is larger than the padded image
        with pytest.raises(RuntimeError), LiftFloat32():
            outcome(settings, sides, kernel, layout, bias)
        return
    with LiftFloat32():
        got = outcome(settings, sides, kernel, layout, bias)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        assert ours.is_contiguous() == theirs.is_contiguous()


@pytest.mark.parametrize(
    ("dtype", "groups", "outputs"), [(torch.float32, 4, 4), (torch.float64, 2, 4), (torch.float64, 4, 8)]
)
def test_other_convolutions_are_left_to_torch(dtype: torch.dtype, groups: int, outputs: int) -> None:
    images, weight = torch.zeros(1, 4, 5, 5, dtype=dtype), torch.zeros(outputs, 4 // groups, 3, 3, dtype=dtype)
    args = (images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups)
    assert shortcut(aten.convolution.default, args) is None
    gradient = aten.convolution.default(*args)
    wanted = [True, True, False]
    assert shortcut(aten.convolution_backward.default, (gradient, images, weight, None, *args[3:], wanted)) is None
