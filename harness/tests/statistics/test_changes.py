"""Changes between two runs: published critical values, coverage, and false claims among many."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.statistics.changes import adjusted, apart, between_processes, critical_value


@pytest.mark.parametrize(
    ("first", "second", "expected"), [(4, 4, 0), (5, 5, 2), (6, 6, 5), (8, 8, 13), (10, 10, 23), (5, 8, 6)]
)
def test_critical_values_are_the_published_ones(first: int, second: int, expected: int) -> None:
    """Mann and Whitney's table at 5 %, two-sided."""
    assert critical_value(first, second) == expected


def test_the_interval_between_processes_covers_as_often_as_it_says() -> None:
    """At least 0.95 by construction; of 400 draws fewer than 360 have p < 1e-4."""
    random = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        a, b = np.exp(0.02 * random.standard_t(3, size=(2, 6)))
        found = between_processes(list(a), list(1.1 * b))
        assert found is not None
        held += found.low <= 1.1 <= found.high
    assert held >= 360


def test_many_rows_raise_the_bar_for_each() -> None:
    """One of forty with p = 0.03 is what chance brings; alone it would be a claim. What wasn't tested doesn't count."""
    assert adjusted([0.03, math.nan]) == pytest.approx([0.03, math.nan], nan_ok=True)
    assert adjusted([0.03, *np.linspace(0.04, 1, 39)])[0] > 0.05
    assert adjusted([]) == []


def test_amounts_lie_apart_where_their_ranges_do() -> None:
    assert apart([1.0, 2.0], [2.5, 3.0]) == 1
    assert apart([1.0, 2.0], [2.0, 3.0]) == 0
    assert apart([2.0, 3.0], [1.0, 1.5]) == -1
    assert apart([100.0], [100.5], tolerance=0.01) == apart([100.0], [99.5], tolerance=0.01) == 0
