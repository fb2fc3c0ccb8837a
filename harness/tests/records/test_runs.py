"""Runs are found by folder, id, as the latest and at URLs; their environment may be missing or broken."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from harness.errors import RunError
from harness.records.runs import ENVIRONMENT, RECORDS, Place, resolve
from reports.frames.run import load
from reports.tests.made_runs import check, write_run

FIRST, NEWEST = "20260101T110000-aaaa", "20260101T120000-bbbb"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in (FIRST, NEWEST):
        write_run(tmp_path / "results" / name, [check("shapes")])
    (tmp_path / "results" / "20260101T130000-without-rows").mkdir()
    return tmp_path / "results"


def test_a_run_is_found_by_folder_by_id_and_as_latest(results: Path) -> None:
    newest = results / NEWEST
    assert resolve(newest) == newest
    assert resolve(NEWEST, results) == newest
    assert resolve("latest", results) == newest


def test_an_unknown_run_is_refused_naming_those_there_are(results: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"no run 'nothing'.*{FIRST}, {NEWEST}"):
        resolve("nothing", results)
    with pytest.raises(RunError, match="it has no runs"):
        resolve("latest", tmp_path)


def test_runs_and_their_files_are_found_on_disk_and_at_a_url(results: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(results), "/runs", recursive=True)
    for place in (Place(results), Place("memory://runs")):
        assert [run.name for run in place.runs()] == [FIRST, NEWEST]
        newest = place.runs()[-1]
        assert newest.read(RECORDS) == (results / NEWEST / RECORDS).read_bytes()
        facts, trouble = newest.environment()
        assert (facts["torch"], trouble) == ("2.9.0", "")
    files.rm("/runs", recursive=True)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "can't be read: No such file"), (b"{", "isn't JSON"), (b"[]", "holds a list"), (b"\xff", "isn't JSON")],
)
def test_the_environment_may_be_missing_or_broken(tmp_path: Path, content: bytes | None, why: str) -> None:
    folder = write_run(tmp_path / "run", [check("shapes")], environment=None)
    if content is not None:
        (folder / ENVIRONMENT).write_bytes(content)
    facts, trouble = Place(folder).environment()
    assert facts == {}
    assert trouble.startswith(f"{ENVIRONMENT} {why}")
    assert any(trouble in notice for notice in load(folder).notices)
