"""Errors that end in one line for the user: who, what was expected, what was got, what to do."""

from __future__ import annotations

from collections.abc import Iterable


class RequestError(ValueError):
    """The request makes no sense; the one-line message says what is known."""


class SubjectError(AssertionError):
    """The subject could not be built or called; the message says who, what and why."""


def first_line(error: BaseException) -> str:
    """First non-empty line of an error's message, and the next where that only announces it; at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"[:300]
    return lines[0][:300] if lines else "(no message)"


def some_of(names: Iterable[str], most: int = 5) -> str:
    """The first ``most`` names, separated by commas, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


class StoreError(RuntimeError):
    """The results folder can't be written; the message says which and why."""


class RunError(RuntimeError):
    """A run can't be found, read or written about; the message is one line that says which and why."""
