"""What is particular to this suite's own EfficientNet: scaling, stochastic depth, the gates, its new classifier."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from suites.efficientnet import model as efficientnet
from suites.efficientnet.architectures import FAMILY
from suites.efficientnet.model import (
    COEFFICIENTS,
    EfficientNet,
    MBConv,
    Recipe,
    SamePadConv2d,
    SqueezeExcitation,
    StageSetting,
    StochasticDepth,
    compound_scale,
    round_filters,
    round_repeats,
)

PHI = (0.0, 0.5, 1.0, 2.0, 3.5, 4.75, 5.5, 6.5)
"""Compound coefficients whose equation 3 comes nearest to the published, hand-rounded B0 to B7."""


def tiny(**keywords: Any) -> EfficientNet:
    """An eighth of B0's width: the code of the family in milliseconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EfficientNet(0.125, 0.5, num_classes=6, **keywords)


def images(batch: int = 2, side: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_phi_zero_is_b0() -> None:
    assert compound_scale(0) == COEFFICIENTS[0] == (1.0, 1.0, 224)


@pytest.mark.parametrize(("phi", "published"), list(zip(PHI, COEFFICIENTS, strict=True)))
def test_compound_scaling_is_near_what_was_published(phi: float, published: tuple[float, float, int]) -> None:
    """Within 10 %: B1 to B7 were rounded by hand; B1 has its 240 px and depth 1.1 at 0.5."""
    for got, expected in zip(compound_scale(phi), published, strict=True):
        assert got == pytest.approx(expected, rel=0.1)


@given(phi=st.floats(0, 8), step=st.floats(0, 2))
def test_scaling_is_monotone_in_phi(phi: float, step: float) -> None:
    """No stage gets narrower or shallower, and no image smaller, as the compound coefficient grows."""
    small, large = compound_scale(phi), compound_scale(phi + step)
    assert all(a <= b for a, b in zip(small, large, strict=True))
    for stage in efficientnet.STAGES:
        assert round_filters(stage.width, small.width) <= round_filters(stage.width, large.width)
        assert round_repeats(stage.repeats, small.depth) <= round_repeats(stage.repeats, large.depth)


def test_each_step_of_phi_doubles_the_cost() -> None:
    """alpha * beta^2 * gamma^2 is about 2 (the paper's constraint)."""
    before, after = compound_scale(3), compound_scale(4)
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    assert ratios[1] * ratios[0] ** 2 * ratios[2] ** 2 == pytest.approx(2, rel=0.06)


def test_published_members_grow() -> None:
    """B0 to B7 grow strictly in parameters and multiply-adds, and have the published widths, depths and sizes."""
    members = [a for a in FAMILY.architectures if "index" in a.facts]
    for smaller, larger in pairwise(members):
        assert smaller.parameters < larger.parameters
        assert smaller.multiply_adds < larger.multiply_adds
    for member, scale in zip(members, COEFFICIENTS, strict=True):
        assert (member.facts["width"], member.facts["depth"], member.input_size) == scale
        with torch.device("meta"):
            model = getattr(efficientnet, member.name)()
        assert model.dropout.p == member.facts["dropout"]
        assert len([m for m in model.modules() if isinstance(m, SqueezeExcitation)]) == member.facts["gates"]
        norms = {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
        assert norms == {(1e-3, 0.01) if member.facts["index"] >= 5 else (1e-5, 0.1)}


@given(channels=st.integers(1, 4000), multiplier=st.floats(0.05, 4))
def test_round_filters(channels: int, multiplier: float) -> None:
    """A multiple of 8, at least 8, never more than 10 % below what was asked and at most 8 above."""
    width, asked = round_filters(channels, multiplier), channels * multiplier
    assert width % 8 == 0
    assert width >= 8
    assert 0.9 * asked <= width <= max(8, asked + 8)


@pytest.mark.parametrize(
    ("channels", "multiplier", "width"), [(32, 1.0, 32), (32, 1.1, 32), (40, 1.1, 48), (80, 1.1, 88), (10, 1.0, 16)]
)
def test_round_filters_by_hand(channels: int, multiplier: float, width: int) -> None:
    """44 lies halfway and goes up; 10 would become 8, which loses more than 10 %."""
    assert round_filters(channels, multiplier) == width


def test_squeeze_has_a_quarter_of_the_input_width() -> None:
    block = MBConv(Recipe(), 24, StageSetting(6, 3, 1, 24, 1), 0.0)
    squeeze = next(m for m in block.modules() if isinstance(m, SqueezeExcitation))
    assert (squeeze.reduce.in_channels, squeeze.reduce.out_channels) == (144, 6)


def test_gates_scale_whole_channels_by_less_than_one() -> None:
    squeeze = SqueezeExcitation(8, 2)
    x = images(3, 9)[:, :1].expand(-1, 8, -1, -1)
    gates = squeeze(x) / x
    assert bool(((gates > 0) & (gates < 1)).all())
    torch.testing.assert_close(gates, gates[..., :1, :1].expand_as(gates), rtol=1e-5, atol=0)


def test_stochastic_depth_drops_whole_samples_and_rescales() -> None:
    """Every sample is dropped or divided by 0.75; over 100,000 samples the mean stays within six deviations."""
    samples, rate = 100_000, 0.25
    layer = StochasticDepth(rate).train()
    x = torch.ones(samples, 2, 1, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = layer(x)
    assert torch.equal(out[:, 0], out[:, 1])
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / (1 - rate)]))
    assert abs(out.mean().item() - 1) < 6 * math.sqrt(rate / (1 - rate) / samples)
    assert layer.eval()(x) is x


def test_stochastic_depth_grows_with_depth_and_spares_the_first_block() -> None:
    rates = [m.rate for m in tiny(drop_path=0.4).modules() if isinstance(m, StochasticDepth)]
    assert rates == [pytest.approx(0.4 * i / len(rates)) for i in range(len(rates))]


def test_a_dropped_branch_leaves_the_shortcut() -> None:
    block = MBConv(Recipe(), 8, StageSetting(6, 3, 1, 8, 1), 0.999999)
    x = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert torch.equal(block.train()(x), x)


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (8, 5, 2), (5, 5, 2), (9, 5, 3), (2, 5, 2)]
)
def test_same_padding(size: int, kernel: int, stride: int) -> None:
    """ceil(size / stride) outputs, and the odd pixel of padding comes last: the first window starts at -total // 2."""
    conv = SamePadConv2d(1, 1, kernel, stride, bias=False)
    nn.init.ones_(conv.weight)
    ramp = torch.arange(1.0, size + 1).expand(1, 1, size, size)
    out = conv(ramp)
    outputs = math.ceil(size / stride)
    assert out.shape == (1, 1, outputs, outputs)
    before = max((outputs - 1) * stride + kernel - size, 0) // 2
    rows = min(kernel - before, size)
    assert out[0, 0, 0, 0].item() == rows * sum(range(1, rows + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_path": 1.0}, r"drop_path=1.0: the rate must lie in \[0, 1\)"),
        ({"drop_path": -0.1}, r"drop_path=-0.1: the rate must lie in \[0, 1\)"),
        ({"drop_path": math.nan}, r"drop_path=nan: the rate must lie in \[0, 1\)"),
        ({"dropout": 2.0}, r"dropout=2.0: the rate must lie in \[0, 1\)"),
        ({"num_classes": 0}, "num_classes=0: must be at least 1"),
        ({"in_channels": 0}, "in_channels=0: must be at least 1"),
        ({"width": 0.0}, "width=0.0: the multiplier must be a finite number above 0"),
        ({"depth": math.inf}, "depth=inf: the multiplier must be a finite number above 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientNet(**arguments)


@pytest.mark.parametrize("phi", [-0.5, math.inf, math.nan])
def test_bad_phi_is_named(phi: float) -> None:
    with pytest.raises(ValueError, match=f"phi={phi}"):
        compound_scale(phi)


@pytest.mark.parametrize("shape", [(1, 3, 0, 32), (1, 3, 32, 0), (1, 1, 32, 32), (3, 32, 32)])
def test_bad_images_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input of shape .*expected \(batch, 3, height, width\)"):
        tiny()(torch.zeros(shape))


def test_smallest_image() -> None:
    """The stem takes a single pixel: in eval mode the network is defined from there on."""
    assert tiny().eval()(images(1, 1)).shape == (1, 6)
