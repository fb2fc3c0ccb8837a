"""The rows of all workers as one run, and what is done."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import StoreError
from harness.records.codec import RowReader
from harness.records.run_store import RunStore
from harness.records.schema import CheckRecord, MeasurementRecord, Record
from harness.records.verdicts import Verdicts, of_reference
from harness.sweep.tasks import Case, Task


class MergedRun:
    """Writes rows as they come. Each says in its details which task it is of and where that ran.

    Measurements wait for the verdict of their test, so that a test which a dying worker left half done leaves nothing
    when it is done again elsewhere.
    """

    def __init__(
        self,
        store: RunStore,
        known: Iterable[Record] = (),
        *,
        options: Sequence[str] = (),
        several_kinds: bool = False,
    ) -> None:
        """``known`` are the rows of the interrupted run that is gone on with; ``options`` those of the sweep for
        pytest, for commands that repeat a test. With ``several_kinds`` of device in the cluster a measurement's device
        says which: only times on the same kind are compared."""
        self.options, self.several_kinds = options, several_kinds
        self.store = store
        self.trouble = ""
        """What the disk refused; empty where it took everything."""
        self.verdicts = Verdicts()
        self.outcomes: dict[str, int] = {}
        self._done: dict[str, set[str]] = {}
        self._waiting: dict[str, list[MeasurementRecord]] = {}
        for record in known:
            self._note(record)

    def missing(self, task: Task) -> Task:
        """What of a task has no verdict yet."""
        return task.without(self._done.get(task.key, ()))

    def take(self, task: Task, lines: Iterable[str], placement: Mapping[str, Any]) -> None:
        """Rows of a task as its process wrote them."""
        for record in RowReader(lines):
            details = {**record.details, "sweep": task.key, "placement": dict(placement)}
            record = replace(record, run=self.store.run, details=details)
            if isinstance(record, MeasurementRecord):
                if self.several_kinds and placement.get("kind"):
                    record = replace(record, device=f"{record.device} ({placement['kind']})")
                self._waiting.setdefault(task.key, []).append(record)
                continue
            self.settle(task)
            self._write(record)

    def settle(self, task: Task) -> None:
        """Write the measurements that wait, flagged if their subject failed a check on whatever worker."""
        flag = self.verdicts.of(task.suite, task.architecture, task.subject).not_ranked
        for record in self._waiting.pop(task.key, []):
            own = record.role == "subject" and flag and flag not in record.flag
            self._write(replace(record, flag="; ".join(filter(None, (flag, record.flag)))) if own else record)

    def drop(self, task: Task) -> None:
        """Forget the measurements of a test that will be done again."""
        self._waiting.pop(task.key, None)

    def command_of(self, test: str) -> str:
        """A line for the shell that repeats a test as the sweep asked for it."""
        return shlex.join(["pytest", test, *self.options])

    def give_up(self, task: Task, case: Case, why: str, placement: Mapping[str, Any]) -> None:
        """The row of a test that no worker brought to a verdict."""
        self._write(
            CheckRecord(
                run=self.store.run,
                suite=task.suite,
                architecture=task.architecture,
                subject=task.subject,
                check=case.check,
                outcome="error",
                message=f"{task.architecture} of {task.subject}: no verdict: {why}",
                reproduce=self.command_of(case.test),
                test=case.test,
                details={"sweep": task.key, "placement": dict(placement), "lost": True},
            )
        )

    def close(self, tasks: Iterable[Task] = ()) -> None:
        """The end, or an interruption: what waits is written too."""
        for task in tasks:
            self.settle(task)
        self.store.close()

    def _write(self, record: Record) -> None:
        self._note(record)
        try:
            self.store.append(record)
        except StoreError as error:
            self.trouble = str(error)

    def _note(self, record: Record) -> None:
        self.verdicts.add(record)
        if not isinstance(record, CheckRecord) or of_reference(record.check):
            return
        self._done.setdefault(str(record.details.get("sweep", "")), set()).add(record.test)
        self.outcomes[record.outcome] = self.outcomes.get(record.outcome, 0) + 1
