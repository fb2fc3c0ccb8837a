"""Cost curves: the exponent that was planted is the one that is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.schema import Record
from reports.frames.cost_curves import COLUMNS, cost_curves
from reports.frames.run import Run, load
from reports.tests.made_runs import latency, measured, write_run


def made(folder: Path, records: list[Record]) -> Run:
    return load(write_run(folder, records))


def test_planted_exponents(tmp_path: Path) -> None:
    rows: list[Record] = []
    for size in (128, 192, 256):
        rows.append(latency(1e-6 * size**2, input_size=size, group=str(size)))
    for batch in (1, 2, 4, 8):
        rows.append(measured("peak_memory", (1000.0 * batch,), batch_size=batch, input_size=64, group=f"b{batch}"))
    found = cost_curves(made(tmp_path / "run", rows))
    assert list(zip(found["quantity"], found["axis"], found["fixed"], strict=True)) == [
        ("peak_memory", "batch_size", 64),
        ("latency", "input_size", 4),
    ]
    assert list(found["exponent"]) == pytest.approx([1.0, 2.0])
    assert found["sizes"].iloc[1] == [128, 192, 256]
    assert (found["low"] <= found["exponent"] + 1e-9).all()
    assert (found["exponent"] <= found["high"] + 1e-9).all()


def test_two_sizes_are_no_curve_and_nothing_is_no_power(tmp_path: Path, run: Run) -> None:
    two = [latency(0.1, input_size=size, group=str(size)) for size in (64, 128)]
    assert len(cost_curves(made(tmp_path / "two", list(two)))) == 0
    zero = [measured("peak_memory", (0.0,), batch_size=b, group=f"b{b}") for b in (1, 2, 4)]
    assert cost_curves(made(tmp_path / "zero", list(zero)))["exponent"].isna().all()
    assert list(cost_curves(run).columns) == list(COLUMNS)
