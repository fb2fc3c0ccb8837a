"""Change points: dated to their run, and none where there is only scatter."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.statistics.levels import SHORTEST, change_points, level_changes


def frame(values: list[float], series: str = "a") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "series": series,
            "run": [f"run{i:03}" for i in range(len(values))],
            "started": [f"2026-01-{1 + i // 24:02}T{i % 24:02}:00:00+00:00" for i in range(len(values))],
            "commit": [f"c{i}" for i in range(len(values))],
            "value": values,
        }
    )


def scattered(levels: list[tuple[float, int]], scatter: float, seed: int = 0) -> list[float]:
    random = np.random.default_rng(seed)
    return [level * float(np.exp(scatter * random.standard_normal())) for level, runs in levels for _ in range(runs)]


def test_a_change_is_dated_to_its_run_and_commit() -> None:
    history = pd.concat(
        [frame(scattered([(1.0, 20), (0.95, 15)], 0.005)), frame(scattered([(2.0, 35)], 0.005, 1), "b")]
    )
    found = change_points(history.sample(frac=1, random_state=0), ["series"])
    assert len(found) == 1
    row = found.iloc[0]
    assert (row["series"], row["run"], row["commit"], row["previous"]) == ("a", "run020", "c20", "run019")
    assert row["change"] == pytest.approx(0.95, abs=0.01)
    assert row["runs"] == 15


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


def test_short_histories_and_impossible_values_say_nothing() -> None:
    assert level_changes(np.array([1.0, 2.0])) == []
    bad = frame([np.nan, np.inf, 0.0, -1.0, *[1.0] * (2 * SHORTEST)])
    assert len(change_points(bad, ["series"])) == 0
    assert list(change_points(frame([]), ["series"]).columns)[:3] == ["series", "run", "started"]
