"""NaN, infinity, and images that are dark, constant or bright."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench, seeded
from harness.bench.passes import float64_logits
from harness.bench.tolerances import rowwise
from harness.bench.weight_transplant import rounding_bound, transplant


def check_nan_propagation(bench: Bench) -> None:
    """NaN in one sample gives NaN in that sample's logits, and in no other's."""
    model = transplant(bench).subject
    images = bench.images(3, bench.small_side(), seed=29)
    expected = float64_logits(bench, model, images)
    centre = bench.small_side() // 2
    poisoned = images.clone()
    poisoned[1, :, centre, centre] = float("nan")
    got = float64_logits(bench, model, poisoned)
    assert bool(torch.isnan(got[1]).any()), (
        f"{bench.who}: NaN in a sample gives finite logits; expected NaN, not silence (nan_to_num, a clamp, a "
        "maximum that drops NaN)"
    )
    expect_infinity_propagates(bench, model, images)
    expect_nan_in_training(bench)
    others = torch.isfinite(got[[0, 2]]).all() and rowwise(got[[0, 2]], expected[[0, 2]]) <= rounding_bound(bench)
    assert bool(others), f"{bench.who}: NaN in one sample changes the logits of the others in eval mode"


def expect_infinity_propagates(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """Raise AssertionError where an infinite pixel gives finite logits, unless it does so in the reference too."""
    poisoned, centre = images.clone(), images.shape[-1] // 2
    poisoned[1, 0, centre, centre] = float("inf")  # in one channel, since the difference of two would be NaN
    unbounded = float64_logits(bench, model, poisoned)
    bounded_too = bool(torch.isfinite(float64_logits(bench, transplant(bench).grafted[0].model, poisoned)[1]).all())
    assert bounded_too or not bool(torch.isfinite(unbounded[1]).all()), (  # a ReLU6 is bounded by definition
        f"{bench.who}: an infinite pixel gives finite logits; expected infinity or NaN, not silence (features are "
        "clamped)"
    )


def expect_nan_in_training(bench: Bench) -> None:
    """Raise AssertionError where NaN does not propagate in train mode, where it shows that training diverged."""
    model = bench.small_copy().train()
    images = bench.images(3, bench.small_side(), seed=29).float()
    images[1] = float("nan")
    with torch.no_grad(), seeded(bench.seed):
        got = bench.logits(model, images)
    assert bool(torch.isnan(got[1]).any()), (
        f"{bench.who}: in train mode NaN in a sample gives finite logits; expected NaN, by which a training loop sees "
        "that it diverged (nan_to_num)"
    )


def check_scale(bench: Bench) -> None:
    """Logits stay finite for dark, constant and bright images, in float32."""
    model = bench.small_copy().eval()
    side = bench.small_side()
    cases: dict[str, Callable[[], Tensor]] = {
        "all zero": lambda: torch.zeros(2, 3, side, side),
        "constant": lambda: torch.full((2, 3, side, side), 2.5),
        "a hundred times brighter": lambda: 100 * bench.images(2, side, seed=30).float(),
        "a hundred times darker": lambda: bench.images(2, side, seed=30).float() / 100,
    }
    for what, make in cases.items():
        with torch.no_grad():
            logits = bench.logits(model, make())
        assert bool(torch.isfinite(logits).all()), f"{bench.who}: logits are not finite for images that are {what}"
