"""One task as a process of the ordinary suites, its rows handed on as they are written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from harness.process.runner import PYTEST, run_process
from harness.records.runs import RECORDS
from harness.sweep.tasks import Event, Task, TaskEnded, TaskRows

REFUSED = (3, 4, 5)
"""pytest's exit codes for an internal error, a request without sense, and no test at all."""


def arguments(task: Task, options: Sequence[str], results: Path) -> list[str]:
    """What pytest is given for a task: ``options`` are the sweep's, without files and folders.

    Where architectures were chosen by glob, or from a library's list, the one of the task is named instead: a process
    need not list the whole of a library to run a part.
    """
    narrowed = task.leaves_rows and (task.suite == "zoo" or any(o.split("=")[0] == "--arch" for o in options))
    return [
        *("-p", "harness.sweep.pytest_plugin", "-p", "no:cacheprovider"),
        *(case.test for case in task.cases),
        *options,
        *([f"--arch={task.architecture}"] if narrowed else []),
        *([f"--process={task.repeat}"] if task.repeat else []),
        f"--results={results}",
    ]


def run(
    task: Task,
    options: Sequence[str],
    *,
    directory: Path,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    forked: bool = False,
) -> Iterator[Event]:
    """Run a task in ``directory``; yields its rows and, last, how it ended. Nothing is left running.

    ``timeout`` seconds are for the whole of it, on top of the ``--timeout`` that each test has. With ``forked`` the
    process comes from one that has imported the libraries (see `harness.process.fork_server`).
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        results, read = Path(folder), 0
        process = run_process(
            [*PYTEST, *arguments(task, options, results)],
            directory=directory,
            environment=environment,
            timeout=timeout,
            limit="--task-timeout",
            forked=forked,
        )
        with closing(process):
            for ended in process:
                read, rows = _new_rows(results, read)
                if rows:
                    yield rows
                if ended is not None:
                    yield TaskEnded(reason=ended.reason, failed=ended.code == 1, hopeless=ended.code in REFUSED)


def _new_rows(results: Path, read: int) -> tuple[int, TaskRows | None]:
    """Whole lines that were written since ``read`` bytes."""
    for path in results.glob(f"*/{RECORDS}"):
        with path.open("rb") as file:
            file.seek(read)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        if whole:
            return read + len(whole), TaskRows(lines=tuple(whole.decode().splitlines()))
    return read, None
