"""Speed and memory of Vision Transformers, interleaved with the references."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.speed
@pytest.mark.members("vit_b_16")
def test_speed(measure: Callable[..., None], setting: str) -> None:
    measure(setting)
