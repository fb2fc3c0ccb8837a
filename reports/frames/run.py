"""A run as tidy frames: its checks, measurements and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.records.codec import read_rows
from harness.records.runs import RECORDS, Place, resolve
from harness.records.schema import CheckRecord, MeasurementRecord
from harness.records.verdicts import Verdicts

CHECK_COLUMNS: Mapping[str, str] = {
    "suite": "str",
    "architecture": "str",
    "subject": "str",
    "check": "str",
    "outcome": "str",
    "message": "str",
    "reproduce": "str",
    "test": "str",
    "seconds": "float64",
    "details": "object",
}
MEASUREMENT_COLUMNS: Mapping[str, str] = {
    "suite": "str",
    "architecture": "str",
    "subject": "str",
    "role": "str",
    "replicate": "int64",
    "comparison": "str",
    "quantity": "str",
    "unit": "str",
    "mode": "str",
    "device": "str",
    "dtype": "str",
    "memory_format": "str",
    "compile": "str",
    "process": "int64",
    "batch_size": "int64",
    "input_size": "int64",
    "rounds": "int64",
    "median": "float64",
    "p95": "float64",
    "p99": "float64",
    "maximum": "float64",
    "samples": "object",
    "flag": "str",
    "test": "str",
    "details": "object",
}
SAMPLE_COLUMNS: Mapping[str, str] = {
    "suite": "str",
    "architecture": "str",
    "subject": "str",
    "role": "str",
    "replicate": "int64",
    "comparison": "str",
    "quantity": "str",
    "mode": "str",
    "device": "str",
    "round": "int64",
    "value": "float64",
    "unit": "str",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One invocation: its records as frames, and its environment.

    ``complete`` is False where the run did not say that it finished (killed, or still running), or its last line is
    torn. ``notices`` are sentences about what could not be read.
    """

    id: str
    folder: Path
    environment: Mapping[str, Any]
    checks: pd.DataFrame
    """See `checks`."""
    measurements: pd.DataFrame
    """See `measurements`."""
    samples: pd.DataFrame
    """See `samples`."""
    verdicts: Verdicts
    """By suite, architecture and subject."""
    corrupt_lines: int
    complete: bool
    notices: tuple[str, ...] = ()
    derived: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    """Frames that were derived already (bootstraps are worth keeping)."""


def load(run: str | Path, results: str | Path = "results") -> Run:
    """Read a run, given as its folder, its id under ``results``, or ``latest``.

    A torn last line and corrupt lines are left out and counted. Raises `harness.errors.RunError` where there is no
    such run, it can't be read, or a newer version wrote it.
    """
    folder = resolve(run, Path(results))
    rows = read_rows(folder / RECORDS)
    environment, trouble = Place(folder).environment()
    notices = [f"The environment isn't known: {trouble}."] if trouble else []
    if rows.corrupt:
        several = f"{rows.corrupt} lines of {RECORDS} are" if rows.corrupt > 1 else f"One line of {RECORDS} is"
        notices.append(f"{several} corrupt and left out: {'; '.join(rows.problems)}.")
    if rows.torn:
        notices.append(f"The last line of {RECORDS} is torn: the run was killed while writing it.")
    if not environment.get("finished"):
        notices.append("The run did not finish (killed, or still running); this page shows what it had recorded.")
    if not rows.checks and not rows.measurements:
        notices.append("The run is empty: it recorded no check and no measurement.")
    verdicts = Verdicts(rows.checks)
    return Run(
        id=folder.resolve().name,
        folder=folder,
        environment=environment,
        checks=_check_frame(rows.checks),
        measurements=_measurement_frame(rows.measurements, verdicts),
        samples=_sample_frame(rows.measurements),
        corrupt_lines=rows.corrupt,
        verdicts=verdicts,
        complete=bool(environment.get("finished")) and not rows.torn,
        notices=tuple(notices),
    )


def checks(run: Run) -> pd.DataFrame:
    """One row per check's outcome on one subject.

    ``suite``, ``architecture``, ``subject``, ``check`` (str); ``outcome`` (str): passed, failed, skipped, xfailed or
    error; ``message`` (str): why it failed or was skipped; ``reproduce`` (str): a shell line; ``test`` (str): pytest's
    id; ``seconds`` (float64, s); ``details`` (object: dict).
    """
    return run.checks.copy()


def measurements(run: Run) -> pd.DataFrame:
    """One row per implementation and quantity, with its raw samples.

    ``suite``, ``architecture``, ``subject`` (str); ``role`` (str): subject, reference or machine; ``replicate``
    (int64): 1 is the second half of an A/A pair; ``comparison`` (str): rows that share it were measured in the same
    rounds; ``quantity``, ``unit``, ``mode``, ``device``, ``dtype``, ``memory_format`` (str); ``compile`` (str): mode of
    `torch.compile`, "" for none; ``process`` (int64): counts fresh processes; ``batch_size`` (int64, images);
    ``input_size`` (int64, pixels); ``rounds`` (int64): number of samples; ``median``, ``p95``, ``p99``, ``maximum``
    (float64, in ``unit``); ``samples`` (object: list of float, in ``unit``); ``flag`` (str): why the row must not be
    ranked, also set here where a check of its subject failed in the same run; ``test`` (str); ``details`` (object:
    dict).
    """
    return run.measurements.copy()


def samples(run: Run) -> pd.DataFrame:
    """One row per raw sample.

    ``suite``, ``architecture``, ``subject``, ``role``, ``comparison``, ``quantity``, ``mode``, ``device`` (str);
    ``replicate`` (int64); ``round`` (int64, from 0): pairs samples of one comparison; ``value`` (float64, in ``unit``);
    ``unit`` (str).
    """
    return run.samples.copy()


def _check_frame(records: tuple[CheckRecord, ...]) -> pd.DataFrame:
    return _frame([{name: getattr(r, name) for name in CHECK_COLUMNS} for r in records], CHECK_COLUMNS)


def _measurement_frame(records: tuple[MeasurementRecord, ...], verdicts: Verdicts) -> pd.DataFrame:
    derived = ("rounds", "median", "p95", "p99", "maximum")
    rows = []
    for record in records:
        row = {name: getattr(record, name) for name in MEASUREMENT_COLUMNS if name not in derived}
        row["samples"] = list(record.samples)
        if not record.flag and record.role == "subject":
            reason = verdicts.of(record.suite, record.architecture, record.subject).not_ranked
            row["flag"] = f"{reason} in this run" if reason else ""
        with np.errstate(over="ignore"):  # two samples near the largest float: their mean is infinite, and may say so
            median, p95, p99 = np.percentile(record.samples, (50, 95, 99))
        row |= {"rounds": len(record.samples), "median": median, "p95": p95, "p99": p99}
        row["maximum"] = max(record.samples)
        rows.append(row)
    return _frame(rows, MEASUREMENT_COLUMNS)


def _sample_frame(records: tuple[MeasurementRecord, ...]) -> pd.DataFrame:
    per_sample = ("round", "value")
    rows = [
        {name: getattr(record, name) for name in SAMPLE_COLUMNS if name not in per_sample}
        | {"round": index, "value": value}
        for record in records
        for index, value in enumerate(record.samples)
    ]
    return _frame(rows, SAMPLE_COLUMNS)


def _frame(rows: list[dict[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))


WORST_FIRST = ("error", "failed", "xfailed", "passed", "skipped")
"""Where a check ran several times on one subject, the worst counts; a skip says nothing, so anything outweighs it."""


def worst(checks: pd.DataFrame) -> pd.DataFrame:
    """One row per (suite, architecture, subject, check): the worst outcome of its runs."""
    order = checks["outcome"].map({outcome: i for i, outcome in enumerate(WORST_FIRST)})
    ordered = checks.assign(order=order).sort_values("order", kind="stable")
    return ordered.drop_duplicates(["suite", "architecture", "subject", "check"]).sort_index().drop(columns="order")
