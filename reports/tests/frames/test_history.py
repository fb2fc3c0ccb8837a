"""History gives the ratios that the page of each run gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import pytest

from harness.records.schema import MeasurementRecord, Record
from harness.statistics.levels import SHORTEST
from reports.frames.history import RATIO, change_points, history
from reports.frames.ratios import ratios
from reports.frames.run import load
from reports.tests.made_runs import compared, latency, write_run


def scattered(rows: list[Record], seed: int) -> list[Record]:
    """Each time a little off, and the last three of the subject's rounds disturbed, in which it took half as long."""
    random = np.random.default_rng(seed)
    made: list[Record] = []
    for row in rows:
        assert isinstance(row, MeasurementRecord)
        if row.quantity == "latency":
            factors = np.exp(0.01 * random.standard_normal(len(row.samples)))
            if row.role == "subject":
                factors[-3:] /= 2
            disturbed = {"disturbed": list(range(len(factors) - 3, len(factors)))}
            details = disturbed if row.role == "subject" else {}
            samples = tuple(float(s * f) for s, f in zip(row.samples, factors, strict=True))
            row = replace(row, samples=samples, details=details)
        made.append(row)
    return made


def ratios_of_history(results: Path) -> dict[tuple[str, str, str], float]:
    frame = history(str(results))
    kept = frame[frame["figure"] == RATIO]
    return {(row["architecture"], row["subject"], row["reference"]): row["value"] for row in kept.to_dict("records")}


def test_ratios_are_those_of_the_page_to_the_last_digit(tmp_path: Path) -> None:
    """Both instances count, disturbed rounds don't, and a test that was rerun replaces its first attempt."""
    rows = scattered([*compared("resnet18", "infer", 0.010), *compared("resnet18", "infer", 0.018)], seed=1)
    rows += scattered(compared("resnet50", "infer", 0.030, subject="mine"), seed=2)
    folder = write_run(tmp_path / "run", rows)
    page = ratios(load(folder)).to_dict("records")
    expected = {(row["architecture"], row["subject"], row["reference"]): row["ratio"] for row in page}
    assert len(expected) == 4
    assert ratios_of_history(tmp_path) == expected


def test_of_several_processes_the_median_counts(tmp_path: Path) -> None:
    rows: list[Record] = []
    for process in range(3):
        made = scattered(compared("resnet18", "infer", 0.018 + 0.001 * process), seed=process)
        rows += [replace(row, process=process) for row in made if isinstance(row, MeasurementRecord)]
    folder = write_run(tmp_path / "run", rows)
    frame = ratios(load(folder))
    expected = {
        ("resnet18", "ours", name): median(frame.loc[frame["reference"] == name, "ratio"])
        for name in ("torchvision", "timm")
    }
    assert len(frame) == 6
    assert ratios_of_history(tmp_path) == expected


def test_what_the_page_has_no_ratio_for_has_none_here(tmp_path: Path) -> None:
    """A round that one of them lacks, a time of nothing, and a subject that must not be ranked."""
    rows: list[Record] = [
        latency(0.01, rounds=11, subject="short", comparison="a"),
        latency(0.01, subject="timm", role="reference", comparison="a"),
        replace(latency(0.01, subject="zero", comparison="b"), samples=(0.0, *[0.01] * 11)),
        latency(0.01, subject="timm", role="reference", comparison="b"),
        latency(0.01, subject="flagged", comparison="c", flag="faster than the machine"),
        latency(0.01, subject="timm", role="reference", comparison="c"),
    ]
    folder = write_run(tmp_path / "run", rows)
    assert list(ratios(load(folder))["ratio"].notna()) == [False, False, True]
    assert ratios_of_history(tmp_path) == {}


def series_of(values: list[float], series: str = "a") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "series": series,
            "run": [f"run{i:03}" for i in range(len(values))],
            "started": [f"2026-01-{1 + i // 24:02}T{i % 24:02}:00:00+00:00" for i in range(len(values))],
            "commit": [f"c{i}" for i in range(len(values))],
            "value": values,
        }
    )


def test_a_change_is_dated_to_its_run_and_commit() -> None:
    random = np.random.default_rng(0)
    changed = np.array([1.0] * 20 + [0.95] * 15) * np.exp(0.005 * random.standard_normal(35))
    steady = 2.0 * np.exp(0.005 * random.standard_normal(35))
    both = pd.concat([series_of(changed.tolist()), series_of(steady.tolist(), "b")])
    found = change_points(both.sample(frac=1, random_state=0), ["series"])
    assert len(found) == 1
    row = found.iloc[0]
    assert (row["series"], row["run"], row["commit"], row["previous"]) == ("a", "run020", "c20", "run019")
    assert row["change"] == pytest.approx(0.95, abs=0.01)
    assert row["runs"] == 15


def test_impossible_values_have_no_level() -> None:
    bad = series_of([np.nan, np.inf, 0.0, -1.0, *[1.0] * (2 * SHORTEST)])
    assert len(change_points(bad, ["series"])) == 0
    assert list(change_points(series_of([]), ["series"]).columns)[:3] == ["series", "run", "started"]
