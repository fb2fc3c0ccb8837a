"""Converts a pytest report to a CheckRecord."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from harness.errors import first_line
from harness.plugin import xdist
from harness.plugin.options import command_of
from harness.plugin.run import RUN, Run
from harness.records.schema import SPEED, CheckRecord, Outcome
from harness.records.verdicts import HUNG
from harness.subjects.subject import Subject


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A subject that hung once is not called again."""
    subject = subject_of(item)
    hung = "" if subject is None else item.config.stash[RUN].verdict(subject).hung
    if subject is not None and hung:
        pytest.skip(f"not run: {subject.id} hung in {hung}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record the outcome of every test of a subject."""
    report = yield
    run = item.config.stash[RUN]
    row = row_of(item, call, report, run)
    if row is not None:
        run.record(row)
    if run.outbox:
        report.rows = xdist.packed(run.outbox)  # type: ignore[attr-defined]
        run.outbox.clear()
    return report


def params_of(item: pytest.Item) -> dict[str, Any]:
    """What the test was parametrized with."""
    callspec = getattr(item, "callspec", None)
    return dict(callspec.params) if callspec is not None else {}


def subject_of(item: pytest.Item) -> Subject | None:
    """The subject that the test is about."""
    params = params_of(item)
    found = params.get("subject", params.get("published"))
    return found if isinstance(found, Subject) else None


def check_name(item: pytest.Item) -> str:
    """What the test's row calls it: the check's name, or ``speed_`` and what is measured."""
    params, function = params_of(item), getattr(item, "originalname", item.name)
    if item.get_closest_marker("speed"):
        return SPEED + str(params.get("setting", params.get("mode", function.removeprefix("test_"))))
    return str(params.get("check", params.get("name", function)))


def row_of(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport, run: Run) -> CheckRecord | None:
    """The row of a subject's test; None where ``report`` is of a part of it that decides nothing."""
    subject = subject_of(item)
    if subject is None or (report.when != "call" and report.passed) or report.when == "teardown":
        return None
    params = params_of(item)
    name, speed = check_name(item), item.get_closest_marker("speed") is not None
    message = _message(report, call)
    if "Timeout" in message and "pytest-timeout" in message:  # outside a call of the subject's own
        message = f"{subject.who}: {HUNG}: {message}"
    return CheckRecord(
        run=run.id,
        suite=subject.family.name,
        architecture=subject.architecture.name,
        subject=subject.label,
        check=name,
        outcome=_outcome(report, call),
        message=message,
        reproduce=command_of(item.config, item.nodeid, benchmark=speed),
        test=item.nodeid,
        seconds=report.duration,
        details=dict(run.bench(subject).notes) if "check" in params or "name" in params else {},
    )


def _outcome(report: pytest.TestReport, call: pytest.CallInfo[None]) -> Outcome:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "failed"
    if report.passed:
        return "passed"
    if report.skipped:
        return "skipped"
    broken = call.excinfo is not None and not call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
    return "error" if broken else "failed"


def _message(report: pytest.TestReport, call: pytest.CallInfo[None]) -> str:
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    if call.excinfo is None:
        return first_line(Exception(report.longreprtext))
    value = call.excinfo.value
    text = str(value)
    return text if isinstance(value, AssertionError | pytest.fail.Exception) else f"{type(value).__name__}: {text}"
