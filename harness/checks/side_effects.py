"""What a subject does to the process around it: settings, generators, imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.process.global_state import changes, draw, generators, restore, settings
from harness.subjects.import_guard import import_changes

if TYPE_CHECKING:
    from harness.subjects.subject import Subject


def expect_seeds_to_hold(who: str, numbers: Sequence[Mapping[str, float]], what: str) -> None:
    """Raise AssertionError where ``numbers``, from `draw` after different seeds and after ``what``, agree."""
    first, second = numbers
    for name in first:
        assert first[name] != second[name], (
            f"{who}: {what} seeds {name}'s generator: after different seeds it stands at the same place; "
            "expected the caller's seed to hold"
        )


def expect_settings(who: str, before: Mapping[str, Any], what: str) -> None:
    """Raise AssertionError where ``what`` has changed a setting since ``before``."""
    for _, text in changes(before):
        raise AssertionError(f"{who}: {what} changes a process-wide setting: {text}")


def expect_no_trace(who: str, call: Callable[[], object], what: str) -> None:
    """Raise AssertionError where ``call`` seeds a generator or changes a setting, which is then put back."""
    before, drawn = settings(), []
    try:
        for start in (1, 2):
            with generators(start):
                call()
                drawn.append(draw())
            expect_settings(who, before, what)
    finally:
        restore(before)
    expect_seeds_to_hold(who, drawn, what)


def expect_quiet_import(subject: Subject) -> None:
    """Raise AssertionError where importing the subject's file has changed what other models compute."""
    subject.module()
    found = import_changes.get(subject.spec)
    assert not found, (
        f"{subject.who}: importing {subject.spec} changes the whole process: {'; '.join(found or ())}; "
        "expected other models to compute what they did before (keep such changes inside the model)"
    )
