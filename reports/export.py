"""Frames as text (terminal, Markdown, CSV, LaTeX) and as Parquet."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

    from reports.frames.run import Run


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


def write_parquet(run: Run) -> list[Path]:
    """``checks.parquet`` and ``measurements.parquet`` in the run's folder; their paths.

    Columns are those of `reports.frames.checks` and `reports.frames.measurements`; ``details`` is JSON text. Raises
    RunError where pyarrow is missing or they can't be written. The run itself is read from ``records.jsonl`` only.
    """
    made = []
    for name, frame in (("checks", run.checks), ("measurements", run.measurements)):
        path = run.folder / f"{name}.parquet"
        partial = path.with_name(f".{path.name}")
        try:
            frame.assign(details=frame["details"].map(json_text).astype("str")).to_parquet(partial, index=False)
            partial.replace(path)
        except ImportError as error:
            raise RunError("Parquet needs pyarrow: pip install pyarrow") from error
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise RunError(f"{path}: {error.strerror or error}") from error
        made.append(path)
    return made


def json_text(details: Any) -> str:
    """``details`` as JSON; what JSON has no form for as text."""
    return json.dumps(details, default=str)
