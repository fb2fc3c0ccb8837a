"""Tasks as Ray tasks. Rows come by an actor's mailbox, so that a worker's death loses none that it had sent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.errors import first_line
from harness.sweep import cluster
from harness.sweep.placement import pinned, placement
from harness.sweep.staging import write_shard
from harness.sweep.tasks import Event, Lost, Started, Task, TaskEnded, TaskRows
from harness.sweep.worker import run

AHEAD = 4
"""Tasks that wait at the engine beyond those that run, at least: the next one starts without asking the driver."""
RECOUNT = 5.0
"""Seconds between counts of the nodes."""
DESERTED = 300.0
"""Seconds without any node that can run a task before the sweep gives up; what is done stays, to be gone on with."""
UNREACHABLE = 60.0
"""Seconds for which the mailbox may not be reached."""

Execute = Callable[[Task, "Order"], Iterator[Event]]


class DesertedError(RuntimeError):
    """No node is left that could run a task."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """How tasks are run."""

    options: tuple[str, ...]
    directory: str
    """Empty for the worker's own, into which the working directory was unpacked."""
    cpus: int
    gpus: float
    timeout: float
    run: str
    results_url: str = ""
    """Where a worker leaves a copy of each task's rows."""


def run_suites(task: Task, order: Order) -> Iterator[Event]:
    """The task as a process of the suites, on cores of its own where it has no GPU."""
    with nullcontext(()) if order.gpus else pinned(order.cpus) as cores:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if order.gpus else []
        node = ray.get_runtime_context().get_node_id()
        yield Started(placement=placement(node=node, gpus=[g for g in gpus if g], cores=cores))
        environment = {"OMP_NUM_THREADS": str(len(cores) or order.cpus)}
        directory = Path(order.directory or Path.cwd())
        lines: list[str] = []
        begun = run(
            task,
            order.options,
            directory=directory,
            timeout=order.timeout,
            environment=environment,
            forked=not order.gpus,
        )
        for event in begun:
            if isinstance(event, TaskRows):
                lines += event.lines
            elif order.results_url:
                write_shard(order.results_url, order.run, f"{task.key}-{len(task.cases)}", lines)
            yield event


class Mailbox:
    """Keeps what workers send until the driver has it."""

    def __init__(self) -> None:
        self._letters: list[tuple[int, Event]] = []
        self._gone = 0

    def put(self, number: int, event: Event) -> None:
        """From a worker."""
        self._letters.append((number, event))

    def take(self, known: int) -> list[tuple[int, Event]]:
        """Everything after the first ``known`` letters, which are let go: asked again, it answers the same."""
        del self._letters[: known - self._gone]
        self._gone = known
        return list(self._letters)


def carry_out(execute: Execute, number: int, task: Task, order: Order, mailbox: Any) -> Event:
    """Run on a worker: sends everything on as it happens, and returns how it ended."""
    last: Event = TaskEnded(reason="it ended without saying how")
    for event in execute(task, order):
        if isinstance(event, TaskEnded):
            last = event
        else:
            sent = mailbox.put.remote(number, event)
            if isinstance(event, TaskRows):
                ray.get(sent)  # what has arrived can't be lost with this worker; letters of one sender keep their order
    return last


class RayEngine:
    """See `harness.sweep.dispatch.Engine`."""

    def __init__(self, order: Order, *, execute: Execute = run_suites) -> None:
        self.order = order
        # With the driver, so that no other node's death takes it along.
        here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox: Any = ray.remote(num_cpus=0, max_restarts=0)(Mailbox).options(scheduling_strategy=here).remote()
        self._task = ray.remote(num_cpus=order.cpus, num_gpus=order.gpus, max_retries=0)(carry_out).options(
            scheduling_strategy="SPREAD"
        )
        self._execute = ray.put(execute)
        self._order = ray.put(order)
        self._flying: dict[Any, int] = {}
        self._number = self._heard = 0
        self._slots, self._counted, self._peopled = 0, -RECOUNT, time.monotonic()

    def room(self) -> int:
        """Slots of the living nodes and some ahead, less what flies. Raises DesertedError."""
        now = time.monotonic()
        if now - self._counted >= RECOUNT:
            self._slots = sum(n.slots(self.order.cpus, self.order.gpus) for n in cluster.nodes())
            self._counted = now
        if self._slots:
            self._peopled = now
        elif now - self._peopled > DESERTED:
            raise DesertedError(f"no node that can run a task for {DESERTED:.0f} s")
        return self._slots + max(AHEAD, self._slots) - len(self._flying)

    def submit(self, task: Task) -> int:
        """See `harness.sweep.dispatch.Engine`."""
        self._number += 1
        reference = self._task.remote(self._execute, self._number, task, self._order, self._mailbox)
        self._flying[reference] = self._number
        return self._number

    def news(self, patience: float) -> Sequence[tuple[int, Event]]:
        """See `harness.sweep.dispatch.Engine`."""
        flying = list(self._flying)
        over: list[Any] = []
        if flying:
            ray.wait(flying, num_returns=1, timeout=patience, fetch_local=False)
            over, _ = ray.wait(flying, num_returns=len(flying), timeout=0, fetch_local=False)
        letters = self._letters()  # after the ends were seen
        return [*letters, *((self._flying.pop(reference), _end(reference)) for reference in over)]

    def _letters(self) -> list[tuple[int, Event]]:
        until = time.monotonic() + UNREACHABLE
        while True:
            try:
                letters: list[tuple[int, Event]] = ray.get(self._mailbox.take.remote(self._heard))
            except ActorUnavailableError:  # a connection that broke, as when a node goes; it may be back in a moment
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
            else:
                self._heard += len(letters)
                return letters

    def stop(self) -> None:
        """See `harness.sweep.dispatch.Engine`."""
        for reference in self._flying:
            ray.cancel(reference, force=True)
        self._flying.clear()


def _end(reference: Any) -> Event:
    try:
        event: Event = ray.get(reference)
    except OutOfMemoryError:
        return Lost(reason="out of memory: the node ended its worker")
    except RayTaskError as error:
        return Lost(reason=f"the worker raised {type(error.cause).__name__}: {first_line(error.cause or error)}")
    except RayError as error:
        return Lost(reason=f"{type(error).__name__}: {first_line(error)}")
    return event
