"""Records to JSON lines and back: the only encoder and decoder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.errors import RunError, StoreError
from harness.records.schema import SCHEMA, CheckRecord, MeasurementRecord, Record


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


PROBLEMS_KEPT = 20
"""Corrupt lines that are described one by one; the rest are only counted."""


@dataclass(frozen=True, kw_only=True)
class RunRows:
    """What ``records.jsonl`` held.

    ``problems`` describes the first corrupt lines ("line 17: ..."). ``torn`` tells that the last line broke off in the
    middle, as a killed process leaves it; it isn't counted in ``corrupt``.
    """

    checks: tuple[CheckRecord, ...]
    measurements: tuple[MeasurementRecord, ...]
    corrupt: int
    torn: bool
    problems: tuple[str, ...]


def read_rows(path: Path) -> RunRows:
    """Every valid row of ``records.jsonl``. Raises RunError where it can't be read or its schema is newer."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: {error.strerror or error}") from error
    checks: list[CheckRecord] = []
    measurements: list[MeasurementRecord] = []
    problems: list[str] = []
    corrupt, torn = 0, False
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # no newline after it: the write was cut short
                torn = True
            else:
                corrupt += 1
                problems.append(f"line {number}: not JSON ({error})")
            continue
        schema = row.get("schema") if isinstance(row, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise RunError(f"{path}, line {number}: schema {schema} is newer than {SCHEMA}, the newest known here")
        try:
            record = _record(row)
        except (ValueError, TypeError, OverflowError) as error:
            corrupt += 1
            problems.append(f"line {number}: {error}")
            continue
        if isinstance(record, CheckRecord):
            checks.append(record)
        else:
            measurements.append(record)
    return RunRows(
        checks=tuple(checks),
        measurements=tuple(measurements),
        corrupt=corrupt,
        torn=torn,
        problems=tuple(problems[:PROBLEMS_KEPT]),
    )


def _record(row: Any) -> CheckRecord | MeasurementRecord:
    if not isinstance(row, dict):
        raise TypeError(f"a {type(row).__name__}, not an object")
    if not isinstance(row.get("schema"), int) or row["schema"] < 1:
        raise ValueError(f"schema is {row.get('schema')!r}")
    if row.get("kind") == "check":
        return CheckRecord(**_arguments(CheckRecord, row))
    if row.get("kind") == "measurement":
        return MeasurementRecord(**_arguments(MeasurementRecord, row))
    raise ValueError(f"kind is {row.get('kind')!r}; known: check, measurement")


def _arguments(record: type[CheckRecord] | type[MeasurementRecord], row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's values for the record's fields, of the types the record declares; unknown keys are left out."""
    arguments: dict[str, Any] = {}
    for field in fields(record):
        if field.name not in row:
            continue
        value = without_surrogates(row[field.name])
        if field.name == "samples":
            if not isinstance(value, list) or not all(_is_number(v) for v in value):
                raise TypeError("samples aren't a list of numbers")
            value = tuple(float(v) for v in value)
        elif field.type in ("int", "float"):
            if not _is_number(value) or (field.type == "int" and not isinstance(value, int)):
                raise TypeError(f"{field.name} is {value!r}, not a number")
        elif str(field.type).startswith("Mapping"):
            if not isinstance(value, dict):
                raise TypeError(f"{field.name} is {value!r}, not an object")
        elif not isinstance(value, str):
            raise TypeError(f"{field.name} is {value!r}, not a string")
        arguments[field.name] = value
    return arguments


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def without_surrogates(value: Any) -> Any:
    """The value with lone surrogates, which no file can be written with, replaced."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {without_surrogates(k): without_surrogates(v) for k, v in value.items()}
    return [without_surrogates(v) for v in value] if isinstance(value, list) else value
