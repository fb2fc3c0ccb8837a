"""Speed and memory of EfficientNets, interleaved with the references."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.speed
@pytest.mark.members("efficientnet_b0")
def test_speed(measure: Callable[..., None], setting: str) -> None:
    measure(setting)


@pytest.mark.speed
@pytest.mark.members("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4")
def test_compound_scaling(measure: Callable[..., None]) -> None:
    """One image at a time at each member's own size, for the chart beside the published figures."""
    measure("infer", batch_size=1, share=1 / 3)
