"""Convolutions in float64 equal torch's own, in every setting, with their first and second derivatives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.bench.drawn_examples import examples
from harness.numerics import depthwise_conv, small_map_conv
from harness.numerics.fast_conv import shortcut
from harness.numerics.float64_mode import Float64Mode

aten = torch.ops.aten
SETTINGS = st.fixed_dictionaries(
    {"stride": st.integers(1, 3), "padding": st.integers(0, 3), "dilation": st.integers(1, 2)}
)


def outcome(
    settings: dict[str, int],
    sides: tuple[int, int, int],
    weight_shape: tuple[int, int, int, int],
    layout: torch.memory_format,
    bias: bool,
) -> list[torch.Tensor]:
    torch.manual_seed(3)
    batch, height, width = sides
    images = torch.randn(batch, 5, height, width, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    weight = torch.randn(weight_shape, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(weight_shape[0], dtype=torch.float64, requires_grad=True) if bias else None
    out = torch.nn.functional.conv2d(images, weight, offset, groups=5 // weight_shape[1], **settings)
    given = [t for t in (images, weight, offset) if t is not None]
    gradients = torch.autograd.grad(out.square().sum(), given, create_graph=True)
    second = torch.autograd.grad(torch.stack([g.square().sum() for g in gradients]).sum(), given[:2])
    return [out, *gradients, *second]


@pytest.mark.parametrize("outputs", [None, 3], ids=["depthwise", "dense"])
@examples(0.3)
@given(
    settings=SETTINGS,
    sides=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    bias=st.booleans(),
)
def test_equals_torch(
    outputs: int | None,
    settings: dict[str, int],
    sides: tuple[int, int, int],
    kernel: tuple[int, int],
    layout: torch.memory_format,
    bias: bool,
) -> None:
    shape = (5, 1, *kernel) if outputs is None else (outputs, 5, *kernel)
    try:
        expected = outcome(settings, sides, shape, layout, bias)
    except RuntimeError:  # the kernel is larger than the padded image
        with pytest.raises(RuntimeError), Float64Mode():
            outcome(settings, sides, shape, layout, bias)
        return
    with Float64Mode():
        got = outcome(settings, sides, shape, layout, bias)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("dtype", "channels", "outputs", "side"),
    [(torch.float32, 1, 4, 5), (torch.float64, 2, 4, 3), (torch.float64, 1, 8, 5), (torch.float64, 4, 4, 5)],
    ids=["float32", "grouped", "multiplied", "large"],
)
def test_other_convolutions_are_left_to_torch(dtype: torch.dtype, channels: int, outputs: int, side: int) -> None:
    images = torch.zeros(1, 4, side, side, dtype=dtype)
    weight = torch.zeros(outputs, channels, 3, 3, dtype=dtype)
    args = (images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 4 // channels)
    assert shortcut(aten.convolution.default, args) is None
    gradient = aten.convolution.default(*args)
    wanted = [True, True, False]
    assert shortcut(aten.convolution_backward.default, (gradient, images, weight, None, *args[3:], wanted)) is None


@pytest.mark.parametrize(("way", "channels"), [(depthwise_conv, 1), (small_map_conv, 4)])
def test_each_way_is_taken(way: object, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "forward", lambda found, bias: "taken")
    images, weight = torch.zeros(1, 4, 4, 4).double(), torch.zeros(4, channels, 3, 3).double()
    args = (images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 4 // channels)
    assert shortcut(aten.convolution.default, args) == "taken"
