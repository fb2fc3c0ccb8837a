"""Where records go: ``<results>/<run>/records.jsonl`` and ``environment.json``, appended and flushed row by row."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.records import CheckRecord, MeasurementRecord, Record, to_row

RECORDS = "records.jsonl"


class StoreError(RuntimeError):
    """The results folder can't be written or read; the message says which and why."""


def new_run_id() -> str:
    """A sortable, unique name: UTC time and four random hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def _finite(value: Any) -> Any:
    """``value`` with floats that JSON has no word for (a NaN among a check's figures) as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


class RunStore:
    """Append-only files of one run.

    Every row is written with one ``write`` and flushed to the operating system, so that a killed process keeps every
    row that it had measured. A write that fails (disk full) raises `StoreError` once; later rows are kept in
    ``unwritten`` so that the terminal can still show them.
    """

    def __init__(self, results: Path, run: str, *, resume: bool = False) -> None:
        """Make the run's folder, or with ``resume`` go on in the one that is there, after its last whole row."""
        self.run = run
        self.folder = results / run
        self.unwritten: list[Record] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=resume)
            self._file = (self.folder / RECORDS).open("ab", buffering=0)
            if resume:
                self._file.truncate(_whole(self.folder / RECORDS))
        except OSError as error:
            raise StoreError(f"results folder {results}: {error.strerror or error}; give --results DIR") from error

    def environment(self, facts: Mapping[str, Any]) -> None:
        """Write ``environment.json``."""
        try:
            (self.folder / "environment.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
        except OSError as error:
            raise StoreError(f"{self.folder / 'environment.json'}: {error.strerror or error}") from error

    def append(self, record: Record) -> None:
        """Write one row. Raises StoreError on the first write that fails, and never again."""
        line = line_of(to_row(record)).encode() + b"\n"
        if self.unwritten:
            self.unwritten.append(record)
            return
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(28, "only part of the row was written: the disk is full")
            os.fsync(self._file.fileno())
        except OSError as error:
            self.unwritten.append(record)
            raise StoreError(
                f"{self.folder / RECORDS}: {error.strerror or error}; "
                "what was measured before is kept, later rows are shown in the terminal only"
            ) from error

    def close(self) -> None:
        """Close the file; the run is complete."""
        self._file.close()


def line_of(row: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(_finite(row), allow_nan=False, default=str)


def from_row(row: Mapping[str, Any]) -> Record:
    """The record that ``to_row`` gave ``row`` for. Raises KeyError, TypeError or ValueError where it is none."""
    kinds: dict[str, type[CheckRecord] | type[MeasurementRecord]]
    kinds = {"check": CheckRecord, "measurement": MeasurementRecord}
    kind = kinds[row["kind"]]
    known = {f.name: row[f.name] for f in fields(kind) if f.name in row and f.name != "schema"}
    return kind(**(known | ({"samples": tuple(row["samples"])} if "samples" in row else {})))


def read_records(path: Path) -> Iterator[Record]:
    """The whole and valid rows of a ``records.jsonl``; whatever else a killed process left is passed over."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
    for line in lines:
        try:
            yield from_row(json.loads(line))
        except (ValueError, TypeError, KeyError):
            continue


def _whole(path: Path) -> int:
    """Bytes up to the end of the last line that was written to its end."""
    return path.read_bytes().rfind(b"\n") + 1
