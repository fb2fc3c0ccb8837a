"""Records to JSON lines and back: the only encoder and decoder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.records.schema import CheckRecord, MeasurementRecord, Record


def to_row(record: Record) -> dict[str, Any]:
    """The record as a JSON-ready dict."""
    row = asdict(record)
    if isinstance(record, MeasurementRecord):
        row["samples"] = list(record.samples)
        row["unit"] = record.unit
    return row


def _finite(value: Any) -> Any:
    """``value`` with floats that JSON has no word for (a NaN among a check's figures) as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


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
