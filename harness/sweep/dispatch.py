"""Which task goes out next, and what becomes of it when a worker dies. Knows no engine by name."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.sweep.merged_run import MergedRun
from harness.sweep.tasks import Event, Lost, Started, Task, TaskEnded, TaskRows

PATIENCE = 1.0
"""Seconds that the engine may wait for news."""


class Engine(Protocol):
    """Runs tasks somewhere."""

    def room(self) -> int:
        """How many tasks may be given to it now."""
        ...

    def submit(self, task: Task) -> int:
        """Give it a task; the number by which it will be spoken of."""
        ...

    def news(self, patience: float) -> Sequence[tuple[int, Event]]:
        """What happened, in order for each task: waits for ``patience`` seconds at most. `Ended` or `Lost` is last."""
        ...

    def stop(self) -> None:
        """End what runs."""
        ...


@dataclass(kw_only=True)
class Flight:
    """A task that was given to the engine."""

    task: Task
    placement: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class State:
    """How far the sweep is, for the terminal."""

    total: int
    done: int = 0
    retried: int = 0
    running: Mapping[int, Flight] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)


class Dispatch:
    """Brings every test of every task to a verdict, or to a row that says why there is none.

    A benchmark goes out when the verdicts on its subject are there, so that the speed of a wrong subject is flagged as
    in one process. What ends without a verdict is tried ``attempts`` times, elsewhere if there is an elsewhere, and
    only for the tests that have none yet; then the first of them, which was under way each time, is given up, and the
    rest goes on.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        engine: Engine,
        merged: MergedRun,
        *,
        attempts: int = 3,
        watch: Callable[[State], None] = lambda state: None,
    ) -> None:
        self.engine, self.merged, self.attempts, self.watch = engine, merged, attempts, watch
        self.broken: list[str] = []
        """Tests about the suites' own code that ended otherwise than well, which leave no row."""
        self._flights: dict[int, Flight] = {}
        self._tries: Counter[tuple[str, str]] = Counter()
        self._judging: Counter[str] = Counter()
        left = [merged.missing(t) if t.leaves_rows else t for t in tasks]
        self._queue = deque(t for t in left if t.cases)
        self._judging.update(t.owner for t in self._queue if not t.measures)
        self.state = State(total=len(tasks), done=len(tasks) - len(self._queue), running=self._flights)

    def run(self) -> None:
        """Until everything is done. An interruption stops what runs and keeps every row that came."""
        try:
            while self._queue or self._flights:
                self._fill()
                for number, event in self.engine.news(PATIENCE):
                    self._hear(number, event)
                self.state.outcomes = self.merged.outcomes
                self.watch(self.state)
        except BaseException:
            for number, event in self.engine.news(0.0):
                self._hear(number, event)
            self.engine.stop()
            raise
        finally:
            self.merged.close([f.task for f in self._flights.values()])

    def _fill(self) -> None:
        for _ in range(self.engine.room()):
            task = self._next()
            if task is None:
                return
            self._flights[self.engine.submit(task)] = Flight(task=task)

    def _next(self) -> Task | None:
        for position, task in enumerate(self._queue):
            if not (task.measures and self._judging[task.owner]):
                del self._queue[position]
                return task
        return None

    def _hear(self, number: int, event: Event) -> None:
        flight = self._flights.get(number)
        if flight is None:  # news of a task that was given up as lost
            return
        task = flight.task
        match event:
            case Started():
                flight.placement = event.placement
            case TaskRows():
                self.merged.take(task, event.lines, flight.placement)
            case TaskEnded() | Lost() if not task.leaves_rows:
                self.merged.settle(task)
                failed = isinstance(event, TaskEnded) and event.failed
                self._finish_own(number, task, event.reason, failed=failed)
            case TaskEnded() | Lost():
                hopeless = isinstance(event, TaskEnded) and event.hopeless
                self._finish(number, flight, event.reason, hopeless=hopeless)

    def _finish(self, number: int, flight: Flight, reason: str, *, hopeless: bool) -> None:
        task = flight.task
        left = self.merged.missing(task)
        del self._flights[number]
        if not left.cases:
            self.merged.settle(task)
            self._count(task)
            return
        first = left.cases[0]
        self._tries[task.key, first.test] += 1
        tries = self._tries[task.key, first.test]
        if tries < self.attempts:
            self.merged.drop(task)
            self.state.retried += 1
            self._queue.appendleft(left)
            return
        self.merged.settle(task)
        why = f"{reason or 'its process said nothing about it'} (tried {tries} times, last on {_where(flight)})"
        given_up = left.cases if hopeless else (first,)
        for case in given_up:
            self.merged.give_up(task, case, why, flight.placement)
        rest = left.without(c.test for c in given_up)
        if rest.cases:
            self._queue.appendleft(rest)
        else:
            self._count(task)

    def _finish_own(self, number: int, task: Task, reason: str, *, failed: bool) -> None:
        del self._flights[number]
        self._tries[task.key, ""] += 1
        if reason and self._tries[task.key, ""] < self.attempts:
            self.state.retried += 1
            self._queue.appendleft(task)
            return
        if reason or failed:
            self.broken.append(
                f"{task.key}: {reason or 'failed'}; reproduce: {self.merged.command_of(task.cases[0].test)}"
            )
        self._count(task)

    def _count(self, task: Task) -> None:
        self.state.done += 1
        if not task.measures:
            self._judging[task.owner] -= 1


def _where(flight: Flight) -> str:
    placement = flight.placement
    if not placement:
        return "no node"
    return f"node {placement.get('node', '?')} ({placement.get('host', '?')})"
