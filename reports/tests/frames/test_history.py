"""History gives the ratios that the page of each run gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from harness.records.schema import MeasurementRecord, Record
from reports.frames.history import RATIO, history
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
