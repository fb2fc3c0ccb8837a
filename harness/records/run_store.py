"""Where records go: ``<results>/<run>/records.jsonl`` and ``environment.json``, appended and flushed row by row."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.records.codec import line_of, to_row
from harness.records.runs import ENVIRONMENT, RECORDS
from harness.records.schema import Record


def new_run_id() -> str:
    """A sortable, unique name: UTC time and four random hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


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
            (self.folder / ENVIRONMENT).write_text(json.dumps(facts, indent=1, default=str) + "\n")
        except OSError as error:
            raise StoreError(f"{self.folder / ENVIRONMENT}: {error.strerror or error}") from error

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


def _whole(path: Path) -> int:
    """Bytes up to the end of the last line that was written to its end."""
    return path.read_bytes().rfind(b"\n") + 1
