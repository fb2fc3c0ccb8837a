"""A frame as text: for the terminal, Markdown, CSV or LaTeX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports.reading import RunError

LONG = ("details", "samples")
"""Columns that no table has room for; CSV has them."""


def printed(frame: pd.DataFrame, form: str, columns: Sequence[str] | None = None) -> str:
    """The frame as ``terminal``, ``markdown``, ``csv`` or ``latex`` text.

    Without ``columns``, CSV has all and the others those in which rows differ. Raises RunError on an unknown column.
    """
    unknown = [name for name in columns or () if name not in frame]
    if unknown:
        raise RunError(f"no column {unknown[0]!r}; known: {', '.join(frame.columns)}")
    if columns:
        frame = frame[list(columns)]
    elif form != "csv":
        short = [name for name in frame if name not in LONG]
        told = [name for name in short if frame[name].nunique(dropna=False) > 1]
        frame = frame[told if len(frame) > 1 else short]
    if form == "csv":
        return frame.to_csv(index=False).rstrip("\n")
    rows = [[_text(value) for value in row] for row in frame.itertuples(index=False)]
    return {"terminal": _terminal, "markdown": _markdown, "latex": _latex}[form](list(frame.columns), rows)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _terminal(heads: list[str], rows: list[list[str]]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(*heads)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a name may hold what rich takes for markup
    with console.capture() as caught:
        console.print(table)
    return caught.get().rstrip("\n")


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        plain = (c.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ") for c in cells)
        return f"| {' | '.join(plain)} |"

    return "\n".join([line(heads), "|" + "---|" * len(heads), *map(line, rows)])


def _latex(heads: list[str], rows: list[list[str]]) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    special |= {"^": r"\textasciicircum{}", "\n": " "}

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(special.get(c, c) for c in cell) for cell in cells) + r" \\"

    body = "\n".join(map(line, rows))
    return (
        f"\\begin{{tabular}}{{{'l' * len(heads)}}}\n\\hline\n{line(heads)}\n\\hline\n{body}\n\\hline\n\\end{{tabular}}"
    )
