"""Speed and memory of EfficientNets, interleaved with the references."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.speed
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_speed(measure: Callable[[str], None], mode: str) -> None:
    measure(mode)
