"""Converts a pytest report to a CheckRecord."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import first_line
from harness.plugin import xdist
from harness.plugin.run import SESSION, Session
from harness.records.schema import SPEED, CheckRecord, Outcome
from harness.records.verdicts import HUNG
from harness.subjects.subject import Subject

if TYPE_CHECKING:
    from harness.plugin.run import Session


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A subject that hung once is not called again."""
    subject = subject_of(item)
    hung = "" if subject is None else item.config.stash[SESSION].verdict(subject).hung
    if subject is not None and hung:
        pytest.skip(f"not run: {subject.id} hung in {hung}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record the outcome of every test of a subject."""
    report = yield
    session = item.config.stash[SESSION]
    row = row_of(item, call, report, session)
    if row is not None:
        session.record(row)
    if session.outbox:
        report.rows = xdist.packed(session.outbox)  # type: ignore[attr-defined]
        session.outbox.clear()
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


def row_of(
    item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport, session: Session
) -> CheckRecord | None:
    """What came of a subject's test; None for the parts of a test that nobody needs to be told of."""
    subject = subject_of(item)
    if subject is None or (report.when != "call" and report.passed) or report.when == "teardown":
        return None
    params = params_of(item)
    name = params.get("check", params.get("name", getattr(item, "originalname", item.name)))
    if item.get_closest_marker("speed"):
        name = SPEED + str(params.get("setting", params.get("mode", item.originalname.removeprefix("test_"))))  # type: ignore[attr-defined]
    message = _message(report, call)
    if "Timeout" in message and "pytest-timeout" in message:  # outside a call of the subject's own
        message = f"{subject.who}: {HUNG}: {message}"
    return CheckRecord(
        run=session.run,
        suite=subject.family.name,
        architecture=subject.architecture.name,
        subject=subject.label,
        check=str(name),
        outcome=_outcome(report, call),
        message=message,
        reproduce=_reproduce(item, session),
        test=item.nodeid,
        seconds=report.duration,
        details=dict(session.bench(subject).notes) if "check" in params or "name" in params else {},
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


def _reproduce(item: pytest.Item, session: Session) -> str:
    options = [f"--subject {s}" for s in session.specs]
    if session.patterns:
        options.append(f"--arch '{','.join(session.patterns)}'")
    if session.seed:
        options.append(f"--seed {session.seed}")
    return " ".join([f"pytest '{item.nodeid}'", *options])
