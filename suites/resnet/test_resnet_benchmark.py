"""Speed and memory of ResNets, interleaved with the references."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.speed
@pytest.mark.members("resnet18", "resnet50")
def test_speed(measure: Callable[..., None], setting: str) -> None:
    measure(setting)
