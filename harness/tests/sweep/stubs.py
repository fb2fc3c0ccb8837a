"""Tasks that take no time and rows that mean nothing, to see what the machinery itself does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from harness.records.codec import to_row
from harness.records.schema import CheckRecord, MeasurementRecord
from harness.sweep.ray_engine import Order
from harness.sweep.tasks import Case, Event, Started, Task, TaskEnded, TaskRows


def tasks(count: int, *, checks: int = 1) -> tuple[Task, ...]:
    """``count`` tasks of ``checks`` tests each."""
    return tuple(
        Task(
            suite="stub",
            subject="ours",
            architecture=f"a{number}",
            cases=tuple(Case(test=f"t.py::t[a{number}-c{c}]", check=f"c{c}") for c in range(checks)),
        )
        for number in range(count)
    )


def verdict(task: Task, case: Case, outcome: str = "passed") -> str:
    """The line that a test leaves."""
    record = CheckRecord(
        run="worker's own",
        suite=task.suite,
        architecture=task.architecture,
        subject=task.subject,
        check=case.check,
        outcome=outcome,  # type: ignore[arg-type]
        test=case.test,
    )
    return json.dumps(to_row(record))


def sample(task: Task, test: str) -> str:
    """The line of a measurement."""
    record = MeasurementRecord(
        run="worker's own",
        suite=task.suite,
        architecture=task.architecture,
        subject=task.subject,
        comparison="c",
        quantity="latency",
        samples=(1.0,),
        test=test,
    )
    return json.dumps(to_row(record))


def order(run: str = "r", *, directory: str = "", cpus: int = 1) -> Order:
    """What no stub looks at, but for ``directory``."""
    return Order(options=(), directory=directory, cpus=cpus, gpus=0, timeout=60, run=run)


def at_once(task: Task, order: Order) -> Iterator[Event]:
    """All verdicts without delay."""
    yield Started(placement={"node": "n", "host": "h"})
    yield TaskRows(lines=tuple(verdict(task, case) for case in task.cases))
    yield TaskEnded()


GATE = "gate"
LIMIT = 120.0


def gated(task: Task, order: Order) -> Iterator[Event]:
    """One verdict, and the others when there is a file `GATE` in ``order.directory``; leaves a file there itself."""
    import ray

    (Path(order.directory) / f"{task.architecture}.{time.monotonic_ns()}").touch()
    yield Started(placement={"node": ray.get_runtime_context().get_node_id(), "host": "h"})
    end = time.monotonic() + LIMIT
    for case in task.cases:
        yield TaskRows(lines=(verdict(task, case),))
        while not (Path(order.directory) / GATE).exists() and time.monotonic() < end:
            time.sleep(0.05)
    yield TaskEnded()
