"""Finds a run's folder and reads its rows, whatever state a killed process left them in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.records.schema import SCHEMA, CheckRecord, MeasurementRecord

RECORDS = "records.jsonl"
ENVIRONMENT = "environment.json"
PROBLEMS_KEPT = 20
"""Corrupt lines that are described one by one; the rest are only counted."""


class RunError(RuntimeError):
    """A run can't be found, read or written about; the message is one line that says which and why."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What ``records.jsonl`` held.

    ``problems`` describes the first corrupt lines ("line 17: ..."). ``torn`` tells that the last line broke off in the
    middle, as a killed process leaves it; it isn't counted in ``corrupt``.
    """

    checks: tuple[CheckRecord, ...]
    measurements: tuple[MeasurementRecord, ...]
    corrupt: int
    torn: bool
    problems: tuple[str, ...]


def resolve(run: str | Path, results: Path = Path("results")) -> Path:
    """The folder of a run given as a folder, as the id of a run under ``results``, or as ``latest``.

    Raises RunError naming the runs that are there.
    """
    if run != "latest":
        for candidate in (Path(run), results / str(run)):
            if (candidate / RECORDS).is_file():
                return candidate
    known = sorted(p.parent.name for p in results.glob(f"*/{RECORDS}"))
    if run == "latest" and known:
        return results / known[-1]
    there = f"it has {', '.join(known[-5:])}" if known else "it has no runs"
    raise RunError(f"no run {str(run)!r}: neither a folder with {RECORDS} nor an id under {results}/ ({there})")


def read_environment(folder: Path) -> tuple[dict[str, Any], str]:
    """``environment.json`` as a dict, and why it is empty ("" where it was read)."""
    path = folder / ENVIRONMENT
    try:
        facts = json.loads(path.read_bytes())
    except OSError as error:
        return {}, f"{ENVIRONMENT} can't be read: {error.strerror or error}"
    except (ValueError, RecursionError) as error:
        return {}, f"{ENVIRONMENT} isn't JSON: {error}"
    if not isinstance(facts, dict):
        return {}, f"{ENVIRONMENT} holds a {type(facts).__name__}, not an object"
    return {str(k): _clean(v) for k, v in facts.items()}, ""


def read_rows(path: Path) -> Rows:
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
    return Rows(
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
        value = _clean(row[field.name])
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


def _clean(value: Any) -> Any:
    """The value with lone surrogates, which no file can be written with, replaced."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_clean(k): _clean(v) for k, v in value.items()}
    return [_clean(v) for v in value] if isinstance(value, list) else value
