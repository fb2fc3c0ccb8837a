"""Records to JSON lines and back: the only encoder and decoder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import repeat
from pathlib import Path
from typing import Any

import orjson

from harness.errors import RunError
from harness.records.schema import SCHEMA, CheckRecord, MeasurementRecord, Record, expect_outcome, expect_samples


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


class NotJsonError(ValueError):
    """A text is no JSON; the message is the parser's."""


def decoded(text: bytes | str) -> Any:
    """What JSON text says. Raises NotJsonError.

    A history reads a million rows, and reading JSON is most of that. NaN and infinity, which Python's json writes, are
    no JSON, and lone surrogates no text: Python's reads them, and surrogates, which no file can be written with, are
    replaced.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        try:
            return _without_surrogates(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise NotJsonError(str(error)) from None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return [_without_surrogates(v) for v in value] if isinstance(value, list) else value


KINDS: Mapping[str, type[CheckRecord] | type[MeasurementRecord]] = {
    "check": CheckRecord,
    "measurement": MeasurementRecord,
}
_NUMBERS = frozenset({int, float})
_TYPES: Mapping[str, tuple[frozenset[type], str]] = {
    "int": (frozenset({int}), "a number"),
    "float": (_NUMBERS, "a number"),
    "Mapping[str, Any]": (frozenset({dict}), "an object"),
    "tuple[float, ...]": (frozenset({list}), "a list of numbers"),
}
"""JSON's types for the types that records declare, and how they are called; everything else is text."""
_TEXT = (frozenset({str}), "a string")


class _Form:
    """What a row of one kind has to look like. ``known`` are types of its fields that were found right: there may be a
    million rows, and one writer's all look the same."""

    def __init__(self, record: type[CheckRecord] | type[MeasurementRecord]) -> None:
        self.fields = fields(record)
        self.names = tuple(f.name for f in self.fields)
        self.known: set[tuple[type, ...]] = set()

    def expect_types(self, row: Mapping[str, Any]) -> None:
        """Raise TypeError where a field is missing that has no default, or one isn't of the type that it declares."""
        types = tuple(map(type, map(row.get, self.names, repeat(MISSING))))
        if types in self.known:
            return
        for field in self.fields:
            if field.name not in row:
                if field.default is MISSING and field.default_factory is MISSING:
                    raise TypeError(f"{field.name} is missing")
                continue
            right, expected = _TYPES.get(str(field.type), _TEXT)
            if type(row[field.name]) not in right:
                raise TypeError(f"{field.name} is {row[field.name]!r}, not {expected}")
        self.known.add(types)


_FORMS = {kind: _Form(record) for kind, record in KINDS.items()}


def checked(row: Any) -> dict[str, Any]:
    """``row`` itself, once it is clear that it is a record's: its fields' types, its outcome or its samples.

    It may lack fields with a default, and have others that no record has. Raises RunError where its schema is newer
    than what is known here, and TypeError, ValueError or OverflowError saying what is wrong with it.
    """
    if not isinstance(row, dict):
        raise TypeError(f"a {type(row).__name__}, not an object")
    schema, kind = row.get("schema"), row.get("kind")
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"schema is {schema!r}")
    if schema > SCHEMA:
        raise RunError(f"schema {schema} is newer than {SCHEMA}, the newest known here")
    if kind != "check" and kind != "measurement":
        raise ValueError(f"kind is {kind!r}; known: {', '.join(KINDS)}")
    _FORMS[kind].expect_types(row)
    if kind == "check":
        expect_outcome(row["outcome"])
        return row
    if not _NUMBERS.issuperset(map(type, row["samples"])):
        raise TypeError("samples aren't a list of numbers")
    expect_samples(row["quantity"], row["samples"], row["subject"], row["architecture"])
    return row


def record_from(row: Any) -> Record:
    """The record that ``to_row`` gave ``row`` for. Raises what `checked` raises."""
    known = checked(row)
    values = {name: known[name] for name in _FORMS[known["kind"]].names if name in known}
    if known["kind"] == "check":
        return CheckRecord(**values)
    return MeasurementRecord(**(values | {"samples": tuple(map(float, known["samples"]))}))


PROBLEMS_KEPT = 20
"""Corrupt lines that are described one by one; the rest are only counted."""


class RowReader:
    """Reads lines of rows once, and counts what can't be read.

    ``problems`` describes the first corrupt lines ("line 17: ..."). ``torn`` tells that the last line broke off in the
    middle, as a killed process leaves it; it isn't counted in ``corrupt``. ``line`` counts up to what raised RunError.
    """

    def __init__(self, lines: Iterable[bytes | str]) -> None:
        """``lines`` of a whole file end with an empty one, as ``split`` gives them, unless the last is torn."""
        self._lines = list(lines)
        self.line = 0
        self.corrupt = 0
        self.torn = False
        self.problems: list[str] = []

    def rows(self) -> Iterator[dict[str, Any]]:
        """What `checked` lets pass, for which half the time does that records take. Raises RunError."""
        for number, line in enumerate(self._lines, start=1):
            try:
                row = checked(decoded(line))
            except NotJsonError as error:
                if not line or line.isspace():
                    continue
                if number == len(self._lines):  # no newline after it: the write was cut short
                    self.torn = True
                else:
                    self._note(number, f"not JSON ({error})")
            except RunError:
                self.line = number
                raise
            except (ValueError, TypeError, OverflowError) as error:
                self._note(number, str(error))
            else:
                yield row

    def __iter__(self) -> Iterator[Record]:
        """The records. Raises RunError where one's schema is newer than what is known here."""
        return map(record_from, self.rows())

    def _note(self, number: int, problem: str) -> None:
        self.corrupt += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(f"line {number}: {problem}")


@dataclass(frozen=True, kw_only=True)
class RunRows:
    """What ``records.jsonl`` held; see `RowReader` for what could not be read."""

    records: tuple[Record, ...]
    corrupt: int
    torn: bool
    problems: tuple[str, ...]

    @property
    def checks(self) -> tuple[CheckRecord, ...]:
        """Outcomes of checks."""
        return tuple(r for r in self.records if isinstance(r, CheckRecord))

    @property
    def measurements(self) -> tuple[MeasurementRecord, ...]:
        """Samples of measurements."""
        return tuple(r for r in self.records if isinstance(r, MeasurementRecord))


def read_rows(path: Path) -> RunRows:
    """Every valid row of ``records.jsonl``. Raises RunError where it can't be read or its schema is newer."""
    try:
        reader = RowReader(path.read_bytes().split(b"\n"))
    except OSError as error:
        raise RunError(f"{path}: {error.strerror or error}") from error
    try:
        records = tuple(reader)
    except RunError as error:
        raise RunError(f"{path}, line {reader.line}: {error}") from None
    return RunRows(records=records, corrupt=reader.corrupt, torn=reader.torn, problems=tuple(reader.problems))


def read_records(path: Path) -> tuple[Record, ...]:
    """The valid rows of ``records.jsonl``, whatever else a killed process left. Raises RunError as `read_rows` does."""
    return read_rows(path).records
