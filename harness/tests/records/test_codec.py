"""Reading: whatever a run was left in, the rest is read, and what isn't is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RunError
from harness.records.codec import read_rows, to_row
from harness.records.runs import resolve
from harness.records.schema import SCHEMA
from reports.frames.run import load
from reports.tests.made_runs import check, every_outcome, latency, newer_row, write_run


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


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff"])
def test_the_environment_may_be_missing_or_broken(tmp_path: Path, content: bytes | None) -> None:
    folder = write_run(tmp_path / "run", every_outcome()[:3], environment=None)
    if content is not None:
        (folder / "environment.json").write_bytes(content)
    run = load(folder)
    assert run.environment == {}
    assert any("environment" in notice for notice in run.notices)


def test_lone_surrogates_do_not_spoil_the_page(tmp_path: Path) -> None:
    line = json.dumps({**to_row(check("shapes")), "subject": "a\ud800b"}).encode() + b"\n"
    run = load(write_run(tmp_path / "run", [], tail=line))
    assert list(run.checks["subject"]) == ["a?b"]


def test_a_run_is_found_by_folder_by_id_and_as_latest(results: Path) -> None:
    newest = results / "20260101T120000-bbbb"
    assert resolve(newest) == newest
    assert resolve("20260101T120000-bbbb", results) == newest
    assert resolve("latest", results) == newest


def test_an_unknown_run_is_refused_naming_those_there_are(results: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run 'nothing'.*20260101T110000-aaaa, 20260101T120000-bbbb"):
        resolve("nothing", results)
    with pytest.raises(RunError, match="it has no runs"):
        resolve("latest", tmp_path)
