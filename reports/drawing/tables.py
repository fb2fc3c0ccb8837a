"""A table as the page shows it: text that a person reads, values to sort by, and the data behind it as CSV."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell. ``sort`` is what its column is sorted by ("" where the text is); ``css`` names its look."""

    text: str
    sort: str = ""
    css: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Cells in column order. A ``sunk`` row (flagged, not to be ranked) is below the others however sorted."""

    cells: tuple[Cell, ...]
    sunk: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its heading, the frame's column, and how a value is written (str by default)."""

    label: str
    field: str
    write: Callable[[Any], str] = str
    numeric: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under headings; the first cell of each row is its heading."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    csv: str

    @property
    def has_sunk(self) -> bool:
        """Whether some rows must stay below the others."""
        return any(row.sunk for row in self.rows)

    """Data address of the frame behind it."""


def csv_address(frame: pd.DataFrame) -> str:
    """The frame as a ``data:`` address that a link can download."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(frame.to_csv(index=False).encode()).decode()


def table(
    name: str,
    caption: str,
    frame: pd.DataFrame,
    columns: Sequence[Column],
    *,
    sunk: str = "",
    look: Callable[[Column, dict[str, Any]], str] = lambda column, row: "",
) -> Table:
    """A table of a frame. Rows whose ``sunk`` column isn't empty come last; ``look`` gives a cell's css names."""
    rows = []
    for row in frame.to_dict("records"):
        record = {str(k): v for k, v in row.items()}
        rows.append(
            Row(
                cells=tuple(_cell(column, record, look(column, record)) for column in columns),
                sunk=bool(sunk and record[sunk]),
            )
        )
    return Table(
        name=name,
        caption=caption,
        columns=tuple(columns),
        rows=tuple(sorted(rows, key=lambda row: row.sunk)),
        csv=csv_address(frame),
    )


def _cell(column: Column, row: dict[str, Any], css: str) -> Cell:
    value = row[column.field]
    sort = ""
    if column.numeric:
        sort = "" if isinstance(value, float) and math.isnan(value) else repr(float(value))
        css = f"number {css}".strip()
    return Cell(text=column.write(value), sort=sort, css=css)
