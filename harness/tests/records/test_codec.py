"""Reading: whatever a run was left in, the rest is read, and what isn't is said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RunError
from harness.records.codec import RowReader, decoded, line_of, read_rows, record_from, to_row
from harness.records.schema import SCHEMA, Record
from reports.frames.history import history
from reports.frames.run import load
from reports.tests.made_runs import check, latency, newer_row, write_run


def test_a_torn_last_line_is_left_out_and_told_apart_from_corrupt_ones(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [check("shapes"), check("flops")], tail=b'{"schema": 1, "kin')
    rows = read_rows(folder / "records.jsonl")
    assert (len(rows.checks), rows.corrupt, rows.torn) == (2, 0, True)
    assert not load(folder).complete


def test_every_prefix_of_a_run_reads(tmp_path: Path) -> None:
    """A process can be killed at any byte."""
    folder = write_run(tmp_path / "run", [check("größe"), latency(0.01)])
    path = folder / "records.jsonl"
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        rows = read_rows(path)
        assert rows.corrupt == 0
        whole = content[:length].count(b"\n")
        assert whole <= len(rows.checks) + len(rows.measurements) <= whole + 1  # only its newline may be missing


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outcome": "maybe"}, "outcome is 'maybe'"),
        ({"kind": "riddle"}, "kind is 'riddle'"),
        ({"schema": 0}, "schema is 0"),
        ({"schema": None}, "schema is None"),
        ({"subject": 5}, "subject is 5, not a string"),
        ({"seconds": "long"}, "seconds is 'long', not a number"),
        ({"details": []}, "details is [], not an object"),
    ],
)
def test_a_corrupt_check_is_counted_and_described(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    bad = json.dumps({**to_row(check("shapes")), **change}).encode() + b"\n"
    rows = read_rows(write_run(tmp_path / "run", [check("flops")], tail=bad) / "records.jsonl")
    assert rows.corrupt == 1
    assert reason in rows.problems[0]
    assert rows.problems[0].startswith("line 2: ")


@pytest.mark.parametrize("samples", ["[NaN]", "[Infinity]", "[-1]", "[]", '["a"]', "[true]", "7", f"[1{'0' * 400}]"])
def test_impossible_samples_are_corrupt(tmp_path: Path, samples: str) -> None:
    line = json.dumps({**to_row(latency(0.01)), "samples": "HERE"}).replace('"HERE"', samples).encode() + b"\n"
    rows = read_rows(write_run(tmp_path / "run", [], tail=line) / "records.jsonl")
    assert (len(rows.measurements), rows.corrupt) == (0, 1)


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[" * 100_000, b"[1, 2]", b"null", b'"text"', b"{}"])
def test_lines_that_are_no_rows_are_corrupt(tmp_path: Path, line: bytes) -> None:
    assert read_rows(write_run(tmp_path / "run", [], tail=line + b"\n") / "records.jsonl").corrupt == 1


def test_a_newer_schema_is_refused_by_name_in_one_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [check("flops")], tail=newer_row())
    with pytest.raises(
        RunError, match=rf"records\.jsonl, line 2: schema {SCHEMA + 6} is newer than {SCHEMA}"
    ) as raised:
        load(folder)
    assert "\n" not in str(raised.value)


def test_lone_surrogates_do_not_spoil_the_page(tmp_path: Path) -> None:
    line = json.dumps({**to_row(check("shapes")), "subject": "a\ud800b"}).encode() + b"\n"
    run = load(write_run(tmp_path / "run", [], tail=line))
    assert list(run.checks["subject"]) == ["a?b"]


def test_a_row_in_a_sweep_is_corrupt_where_one_in_a_file_is(tmp_path: Path) -> None:
    good = to_row(check("shapes"))
    lines = [line_of(good), line_of({**good, "seconds": "long"}), line_of({**good, "schema": 0}), "torn"]
    reader = RowReader(lines)
    assert list(reader) == [check("shapes")]
    assert (reader.corrupt, reader.torn) == (2, True)


def test_a_row_without_what_it_must_say_is_described() -> None:
    row = {name: value for name, value in to_row(check("shapes")).items() if name not in ("run", "check")}
    with pytest.raises(TypeError, match="run is missing"):
        record_from(row)


@pytest.mark.parametrize("record", [check("parity", "failed", details={"error": math.nan}), latency(0.01)])
def test_what_was_written_is_read(record: Record) -> None:
    known = record_from(decoded(line_of(to_row(record))))
    assert to_row(known) == to_row(record) | {"details": {k: str(v) for k, v in record.details.items()}}


@pytest.mark.parametrize(
    "change",
    [
        {"samples": ["x", "y"]},
        {"samples": 7},
        {"samples": [-1.0]},
        {"batch_size": "four"},
        {"device": 3},
        {"flag": None},
        {"quantity": "joy"},
        {"schema": None},
    ],
)
def test_history_and_the_page_of_a_run_agree_on_what_is_corrupt(tmp_path: Path, change: dict[str, Any]) -> None:
    rows = [latency(0.01), latency(0.01, replicate=1), latency(0.02, subject="timm", role="reference")]
    bad = json.dumps({**to_row(latency(9.0)), "comparison": "another", **change}).encode() + b"\n"
    other = json.dumps(to_row(latency(1.0, subject="timm", role="reference", comparison="another"))).encode() + b"\n"
    assert load(write_run(tmp_path / "results" / "run", list(rows), tail=bad + other)).corrupt_lines == 1
    write_run(tmp_path / "sound" / "run", list(rows), tail=other)
    frame, sound = history(str(tmp_path / "results")), history(str(tmp_path / "sound"))
    assert frame.attrs["left_out"] == []
    assert list(frame["figure"]) == list(sound["figure"])
    assert list(frame["value"]) == list(sound["value"])
