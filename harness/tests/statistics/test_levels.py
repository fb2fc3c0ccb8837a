"""Change points: dated to their run, and none where there is only scatter."""

from __future__ import annotations

import numpy as np

from harness.statistics.levels import level_changes, levels


def scattered(levels: list[tuple[float, int]], scatter: float, seed: int = 0) -> list[float]:
    random = np.random.default_rng(seed)
    return [level * float(np.exp(scatter * random.standard_normal())) for level, runs in levels for _ in range(runs)]


def test_levels_have_their_bounds_and_medians() -> None:
    found = levels(np.array([1.0] * 6 + [1.1] * 5))
    assert [(level.start, level.end, level.median) for level in found] == [(0, 6, 1.0), (6, 11, 1.1)]
    assert levels(np.array([])) == []


def test_scatter_alone_changes_nothing() -> None:
    """The docstring's claim: under one in twenty of 200 series; 20 of 200 would have p < 1e-3 at that rate."""
    random = np.random.default_rng(7)
    alarms = sum(bool(level_changes(np.exp(0.01 * random.standard_t(4, size=60)))) for _ in range(200))
    assert alarms < 20


def test_a_lasting_loss_of_twice_the_scatter_is_found() -> None:
    found = 0
    for seed in range(50):
        values = np.array(scattered([(1.0, 20), (0.98, 20)], 0.01, seed))
        found += any(abs(i - 20) <= 3 for i in level_changes(values))
    assert found >= 45


def test_one_bad_night_is_no_change() -> None:
    values = scattered([(1.0, 15), (0.5, 1), (1.0, 15)], 0.005)
    assert level_changes(np.array(values)) == []


def test_exact_figures_change_exactly_where_they_do() -> None:
    assert level_changes(np.array([100.0] * 8 + [101.0] * 8)) == [8]
    assert level_changes(np.array([100.0] * 16)) == []


def test_short_histories_say_nothing() -> None:
    assert level_changes(np.array([1.0, 2.0])) == []
