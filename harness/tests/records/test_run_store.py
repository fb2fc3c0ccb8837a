from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from harness.errors import StoreError
from harness.records.run_store import RunStore, new_run_id
from harness.records.schema import CheckRecord, MeasurementRecord


def row(check: str = "parameters", **fields: Any) -> CheckRecord:
    made = {"run": "r", "suite": "s", "architecture": "a", "subject": "ours", "check": check, "outcome": "passed"}
    return CheckRecord(**{**made, **fields})


def sampled(**fields: Any) -> MeasurementRecord:
    made = {"run": "r", "suite": "s", "architecture": "a", "subject": "ours", "comparison": "c"}
    return MeasurementRecord(**{"quantity": "latency", "samples": (0.5, 0.25), **made, **fields})


def rows(store: RunStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.folder / "records.jsonl").read_text().splitlines()]


def test_every_row_can_be_read_before_the_store_is_closed(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "deep" / "results", "r")
    store.append(row(details={"path": tmp_path}))
    assert [r["check"] for r in rows(store)] == ["parameters"]
    store.append(sampled())
    assert rows(store)[1]["samples"] == [0.5, 0.25]
    assert rows(store)[1]["unit"] == "s"
    store.close()


def test_a_name_with_line_breaks_stays_on_one_line(tmp_path: Path) -> None:
    store = RunStore(tmp_path, "r")
    store.append(row(message="first\nsecond\u2028third"))
    store.close()
    assert (store.folder / "records.jsonl").read_bytes().count(b"\n") == 1
    assert rows(store)[0]["message"] == "first\nsecond\u2028third"


def test_a_full_disk_is_said_once_and_later_rows_are_kept(tmp_path: Path) -> None:
    store = RunStore(tmp_path, "r")
    store.append(row("one"))
    store.close()
    with Path("/dev/full").open("ab", buffering=0) as full:
        store._file = full
        with pytest.raises(StoreError, match=r"records\.jsonl: No space left on device; what was measured before is"):
            store.append(row("two"))
        store.append(row("three"))
    assert [cast(CheckRecord, r).check for r in store.unwritten] == ["two", "three"]
    assert [r["check"] for r in rows(store)] == ["one"]


def test_a_row_that_was_written_in_part_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        def write(self, line: bytes) -> int:
            return len(line) - 1

    store = RunStore(tmp_path, "r")
    store.close()
    monkeypatch.setattr(store, "_file", Short())
    with pytest.raises(StoreError, match=r"only part|No space"):
        store.append(row())
    assert len(store.unwritten) == 1


def test_a_results_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "results"
    blocked.touch()
    with pytest.raises(StoreError, match=r"results: .*; give --results DIR") as caught:
        RunStore(blocked, "r")
    assert "\n" not in str(caught.value)


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    RunStore(tmp_path, "r").close()
    with pytest.raises(StoreError, match="File exists"):
        RunStore(tmp_path, "r")


def test_run_names_differ() -> None:
    assert len({new_run_id() for _ in range(20)}) == 20


@pytest.mark.parametrize("sample", [float("nan"), float("inf"), -1.0])
def test_a_sample_that_is_no_amount_is_rejected(sample: float) -> None:
    with pytest.raises(ValueError, match=r"latency of ours a: sample .* is no amount"):
        sampled(samples=(0.1, sample))


def test_what_a_row_may_not_say() -> None:
    with pytest.raises(ValueError, match="outcome is 'maybe'; known: passed, failed"):
        row(outcome="maybe")
    with pytest.raises(ValueError, match="quantity is 'joy'; known: latency"):
        sampled(quantity="joy")
    with pytest.raises(ValueError, match="no samples"):
        sampled(samples=())


def test_a_figure_in_the_details_that_is_not_finite_is_still_written(tmp_path: Path) -> None:
    store = RunStore(tmp_path, "r")
    store.append(row(details={"error": float("nan"), "bounds": [float("inf"), 1.0]}))
    store.append(row("next"))
    store.close()
    assert [r["check"] for r in rows(store)] == ["parameters", "next"]
