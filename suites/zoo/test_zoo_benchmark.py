"""Speed and memory of any model of a library's list; there is no reference but the model's own replicate."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.speed
@pytest.mark.filterwarnings("default")
def test_speed(measure: Callable[..., None], setting: str) -> None:
    measure(setting)
