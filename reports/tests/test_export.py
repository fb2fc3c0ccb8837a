"""Parquet beside the JSON lines has what the frames have, and its absence is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import RunError
from reports.export import write_parquet
from reports.frames.run import Run, load
from reports.tests.made_runs import full_run, write_run


def test_it_reads_back_as_the_frames(tmp_path: Path) -> None:
    run = load(full_run(tmp_path / "run"))
    paths = write_parquet(run)
    assert [path.name for path in paths] == ["checks.parquet", "measurements.parquet"]
    for path, frame in zip(paths, (run.checks, run.measurements), strict=True):
        again = pd.read_parquet(path)
        assert list(again.columns) == list(frame.columns)
        plain = [name for name in frame.columns if name not in ("details", "samples")]
        pd.testing.assert_frame_equal(again[plain], frame[plain], check_dtype=False)
        assert [json.loads(text) for text in again["details"]] == list(frame["details"])
    measured = pd.read_parquet(paths[1])
    assert [list(held) for held in measured["samples"]] == list(run.measurements["samples"])


def test_an_empty_run_has_empty_tables(tmp_path: Path) -> None:
    paths = write_parquet(load(write_run(tmp_path / "run", [])))
    assert [len(pd.read_parquet(path)) for path in paths] == [0, 0]


def test_no_pyarrow_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    with pytest.raises(RunError, match=r"^Parquet needs pyarrow"):
        write_parquet(run)
