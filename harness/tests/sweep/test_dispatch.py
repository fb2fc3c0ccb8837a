"""What becomes of tasks whose workers die, hang or say too little. No Ray is started."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.records.codec import read_records
from harness.records.run_store import RunStore
from harness.records.runs import RECORDS
from harness.records.schema import CheckRecord, MeasurementRecord
from harness.sweep.dispatch import Dispatch, State
from harness.sweep.merged_run import MergedRun
from harness.sweep.progress import describe
from harness.sweep.tasks import OWN, Case, Event, Lost, Started, Task, TaskEnded, TaskRows
from harness.tests.sweep.stubs import sample, tasks, verdict

Behaviour = Callable[[Task, int], Sequence[Event]]
HERE = Started(placement={"node": "abc", "host": "host1"})


class Script:
    """An engine that does to each task what a function of the task and the try says."""

    def __init__(self, behaviour: Behaviour, room: int = 2) -> None:
        self.behaviour, self.most = behaviour, room
        self.given: list[Task] = []
        self.stopped = False
        self._letters: deque[tuple[int, Event]] = deque()

    def room(self) -> int:
        return self.most

    def submit(self, task: Task) -> int:
        self.given.append(task)
        tries = sum(t.key == task.key for t in self.given)
        self._letters.extend((len(self.given), event) for event in self.behaviour(task, tries))
        return len(self.given)

    def news(self, patience: float) -> Sequence[tuple[int, Event]]:
        letters = list(self._letters)
        self._letters.clear()
        return letters

    def stop(self) -> None:
        self.stopped = True


def sweep(folder: Path, work: Sequence[Task], behaviour: Behaviour) -> tuple[Script, Dispatch, list[CheckRecord]]:
    engine = Script(behaviour)
    dispatch = Dispatch(work, engine, MergedRun(RunStore(folder, "run")))
    dispatch.run()
    return engine, dispatch, verdicts(folder)


def verdicts(folder: Path) -> list[CheckRecord]:
    return [r for r in read_records(folder / "run" / RECORDS) if isinstance(r, CheckRecord)]


def fine(task: Task, tries: int) -> Sequence[Event]:
    return [HERE, TaskRows(lines=tuple(verdict(task, c) for c in task.cases)), TaskEnded()]


def test_every_row_names_the_run_the_task_and_where_it_ran(tmp_path: Path) -> None:
    _, dispatch, rows = sweep(tmp_path, tasks(3, checks=2), fine)
    assert [r.outcome for r in rows] == ["passed"] * 6
    assert {r.run for r in rows} == {"run"}
    assert rows[0].details["placement"] == {"node": "abc", "host": "host1"}
    assert rows[0].details["sweep"] == "stub/ours:a0-conformance"
    assert dispatch.state.done == 3


def test_a_lost_worker_costs_only_the_tests_without_a_verdict(tmp_path: Path) -> None:
    def dies_once(task: Task, tries: int) -> Sequence[Event]:
        if tries == 1:
            return [HERE, TaskRows(lines=(verdict(task, task.cases[0]),)), Lost(reason="NodeDiedError: gone")]
        return fine(task, tries)

    engine, dispatch, rows = sweep(tmp_path, tasks(2, checks=3), dies_once)
    assert sorted(r.test for r in rows) == sorted(c.test for t in tasks(2, checks=3) for c in t.cases)
    assert [len(t.cases) for t in engine.given] == [3, 3, 2, 2]
    assert dispatch.state.retried == 2


def test_what_ends_its_process_each_time_is_given_up_and_the_rest_goes_on(tmp_path: Path) -> None:
    def crashes(task: Task, tries: int) -> Sequence[Event]:
        ok: list[Event] = []
        for case in task.cases:
            if case.check == "c1":
                return [HERE, *ok, TaskEnded(reason="the process died of SIGSEGV")]
            ok.append(TaskRows(lines=(verdict(task, case),)))
        return [HERE, *ok, TaskEnded()]

    engine, _, rows = sweep(tmp_path, tasks(1, checks=3), crashes)
    assert {r.check: r.outcome for r in rows} == {"c0": "passed", "c1": "error", "c2": "passed"}
    (lost,) = [r for r in rows if r.outcome == "error"]
    assert lost.message == (
        "a0 of ours: no verdict: the process died of SIGSEGV (tried 3 times, last on node abc (host1))"
    )
    assert len(engine.given) == 4


def test_a_request_that_pytest_refuses_is_given_up_as_a_whole(tmp_path: Path) -> None:
    engine, _, rows = sweep(
        tmp_path, tasks(1, checks=3), lambda *_: [TaskEnded(reason="ended with code 4: ERROR: no", hopeless=True)]
    )
    assert [r.outcome for r in rows] == ["error"] * 3
    assert len(engine.given) == 3


def test_a_benchmark_waits_for_the_verdicts_and_is_flagged_by_them(tmp_path: Path) -> None:
    (judged,) = tasks(1)
    speed = Task(
        suite="stub",
        subject="ours",
        architecture="a0",
        configuration="infer",
        cases=(Case(test="speed", check="speed_infer"),),
    )

    def measures(task: Task, tries: int) -> Sequence[Event]:
        outcome = "passed" if task.measures else "failed"
        return [
            HERE,
            TaskRows(lines=(sample(task, "speed"),) if task.measures else ()),
            TaskRows(lines=(verdict(task, task.cases[0], outcome),)),
            TaskEnded(),
        ]

    engine, _, _ = sweep(tmp_path, [speed, judged], measures)
    assert [t.configuration for t in engine.given] == ["conformance", "infer"]
    (measured,) = [r for r in read_records(tmp_path / "run" / RECORDS) if isinstance(r, MeasurementRecord)]
    assert measured.flag == "failed c0"


def test_a_measurement_whose_test_came_to_no_verdict_is_not_kept_twice(tmp_path: Path) -> None:
    def half(task: Task, tries: int) -> Sequence[Event]:
        if tries == 1:
            return [HERE, TaskRows(lines=(sample(task, "x"),)), Lost(reason="gone")]
        return [HERE, TaskRows(lines=(sample(task, "x"), verdict(task, task.cases[0]))), TaskEnded()]

    sweep(tmp_path, tasks(1), half)
    kinds = [r.kind for r in read_records(tmp_path / "run" / RECORDS)]
    assert kinds == ["measurement", "check"]


def test_in_a_mixed_cluster_a_measurement_says_on_which_kind_of_device(tmp_path: Path) -> None:
    (task,) = tasks(1)
    merged = MergedRun(RunStore(tmp_path, "run"), several_kinds=True)
    merged.take(task, [sample(task, "x"), verdict(task, task.cases[0])], {"kind": "Fast GPU"})
    merged.close()
    measured = next(iter(read_records(tmp_path / "run" / RECORDS)))
    assert isinstance(measured, MeasurementRecord)
    assert measured.device == "cpu (Fast GPU)"


def test_tests_of_our_own_code_that_fail_are_said_and_leave_no_row(tmp_path: Path) -> None:
    own = Task(suite="s", subject=OWN, architecture="test_s", cases=(Case(test="s.py::t", check="t"),))
    _, dispatch, rows = sweep(tmp_path, [own], lambda *_: [HERE, TaskEnded(failed=True)])
    assert not rows
    assert dispatch.broken == ["s/own tests:test_s-conformance: failed; reproduce: pytest s.py::t"]


def test_interrupted_and_gone_on_with(tmp_path: Path) -> None:
    work = tasks(4, checks=2)

    def interrupted(task: Task, tries: int) -> Sequence[Event]:
        if task.architecture == "a3":
            raise KeyboardInterrupt
        return fine(task, tries)

    engine = Script(interrupted)
    with pytest.raises(KeyboardInterrupt):
        Dispatch(work, engine, MergedRun(RunStore(tmp_path, "run"))).run()
    assert engine.stopped
    assert len(verdicts(tmp_path)) == 6
    known = list(read_records(tmp_path / "run" / RECORDS))
    again = Script(fine)
    dispatch = Dispatch(work, again, MergedRun(RunStore(tmp_path, "run", resume=True), known))
    dispatch.run()
    assert [t.architecture for t in again.given] == ["a3"]
    assert sorted(r.test for r in verdicts(tmp_path)) == sorted(c.test for t in work for c in t.cases)


def test_progress_says_what_is_done_failed_running_and_left() -> None:
    state = State(total=10, done=5, retried=1, outcomes={"passed": 40, "failed": 2})
    assert describe(state, elapsed=100) == "5/10 tasks; 2 checks failed; 1 retried; about 2 min left"
