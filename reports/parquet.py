"""A run's frames as Parquet beside its JSON lines: for those who read runs with something other than this project."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from reports.reading import RunError

if TYPE_CHECKING:
    from pathlib import Path

    from reports.frames import Run


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
            frame.assign(details=frame["details"].map(_text).astype("str")).to_parquet(partial, index=False)
            partial.replace(path)
        except ImportError as error:
            raise RunError("Parquet needs pyarrow: pip install pyarrow") from error
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise RunError(f"{path}: {error.strerror or error}") from error
        made.append(path)
    return made


def _text(details: Any) -> str:
    return json.dumps(details, default=str)
