"""The tasks of a sweep, from a collection of tests, and estimates of their cost."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.process.runner import PYTEST, end_of, run_process
from harness.sweep.pytest_plugin import FILE
from harness.sweep.tasks import CONFORMANCE, OWN, Case, Task

LISTING_TIMEOUT = 600.0
"""Seconds; the whole of a library takes two minutes."""


OURS = ("-p", "harness.sweep.pytest_plugin", "--collect-only", "-q")


def collect(arguments: Sequence[str], directory: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """What pytest would run for ``arguments``: its options without files and folders, and one row a test.

    Raises RequestError with pytest's own line.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "listing.jsonl"
        ended = end_of(
            run_process(
                [*PYTEST, *OURS, *arguments],
                directory=directory,
                environment={FILE: str(target)},
                timeout=LISTING_TIMEOUT,
                limit="the time for listing the tests",
                codes=(0, 5),
            )
        )
        if ended.reason:
            raise RequestError(ended.reason if ended.code < 0 else _error_line(ended.output) or ended.reason)
        rows = [json.loads(line) for line in target.read_text().splitlines()] if target.is_file() else []
        if not rows:
            raise RequestError("the selection is empty: no test is left to run")
        return list(rows[0]["options"][len(OURS) :]), rows[1:]


def _error_line(output: str) -> str:
    """pytest's one line about a request that makes no sense, or the last that it said."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR: ", "E  ", "__main__.py: error: "))]
    return (errors or lines or [""])[0 if errors else -1].removeprefix("ERROR: ")


def plan(rows: Iterable[Mapping[str, Any]], *, repeats: int = 1) -> tuple[Task, ...]:
    """Tasks of one architecture, subject and configuration each, in the order in which pytest would come to them.

    Tests about a suite's own code go by file. Benchmarks are repeated ``repeats`` times, each time in a process of its
    own; verdicts are not. Raises RequestError where nothing is selected.
    """
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["subject"] or not row["skipped"]:  # a skipped test about our own code says nothing worth a process
            key = (row["suite"], row["subject"] or OWN, row["architecture"], row["configuration"] or CONFORMANCE)
            groups.setdefault(key, []).append(row)
    tasks = []
    for (suite, subject, architecture, configuration), members in groups.items():
        first = Task(
            suite=suite,
            subject=subject,
            architecture=architecture,
            configuration=configuration,
            cases=tuple(Case(test=m["test"], check=m["check"]) for m in members),
            parameters=max(int(m.get("parameters") or 0) for m in members),
        )
        again = repeats if first.measures else 1
        tasks += [replace(first, repeat=n) for n in range(again)]
    if not tasks:
        raise RequestError("the selection is empty: no test is left to run")
    return tuple(tasks)


START = 6.0
"""Seconds to start Python and import torch and the libraries."""
BASE_BYTES = 6e8
BYTES_PER_PARAMETER = 60.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one task."""

    seconds: float
    memory: float
    """Bytes."""


def estimate(task: Task, *, budget: float) -> Estimate:
    """``budget`` is the ``--budget`` of each benchmark in seconds."""
    millions = task.parameters / 1e6
    memory = BASE_BYTES + BYTES_PER_PARAMETER * task.parameters
    if task.measures:
        return Estimate(seconds=START + 1.5 * budget * len(task.cases), memory=memory)
    if task.suite == "zoo":
        return Estimate(seconds=START + 10 + millions, memory=memory)
    share = min(1.0, len(task.cases) / 28)
    return Estimate(seconds=START + share * (5 + 2.7 * millions), memory=memory)
