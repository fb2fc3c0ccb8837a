"""A subject's verdict, from the rows of its checks: right, WRONG or not judged, and why its speed is not ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from harness.records.schema import SPEED, CheckRecord, Record

Word = Literal["right", "WRONG", "not judged"]
Who = tuple[str, str, str]
"""Suite, architecture and subject: who is judged."""
BAD = ("failed", "error")
REASONS = {"failed": "failed", "error": "raised an error in", "xfailed": "is known to fail"}
"""Why a subject's speed is not ranked, the worst first."""
HUNG = "did not come back within --timeout"
"""In the message of a check in which the subject hung."""
ABSENT = "measured_against_"
"""Checks whose names start so tell of a reference that took no part in a benchmark, before that is over."""


def of_reference(check: str) -> bool:
    """Whether the row tells of a reference that took no part, and not of the subject."""
    return check.startswith(ABSENT)


def judges(check: str) -> bool:
    """Whether the check says if the subject is right. A benchmark doesn't: one that failed was not measured."""
    return not check.startswith((SPEED, ABSENT))


@dataclass(kw_only=True)
class Verdict:
    """What the checks of one subject came to, in the order of their rows."""

    suite: str
    architecture: str
    subject: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    """Check and outcome."""
    hung: str = ""
    """The first check in which it did not come back; empty where it always did."""

    def found(self, *outcomes: str) -> list[str]:
        """Names of the checks that judge it and that had one of these outcomes, each once."""
        return list(dict.fromkeys(check for check, outcome in self.rows if outcome in outcomes and judges(check)))

    @property
    def word(self) -> Word:
        """WRONG where a check failed or could not be carried out, right where one passed and none failed."""
        return "WRONG" if self.found(*BAD) else "right" if self.found("passed") else "not judged"

    @property
    def not_ranked(self) -> str:
        """Why the subject's speed must not be ranked, the worst reason; empty where it may."""
        for outcome, reason in REASONS.items():
            if names := self.found(outcome):
                return f"{reason} {', '.join(sorted(names))}"
        return ""

    @property
    def tally(self) -> str:
        """How many rows had which outcome, benchmarks too, and the names of those that failed."""
        counts = Counter(outcome for _, outcome in self.rows)
        failed = [check for check, outcome in self.rows if outcome in BAD]
        said = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
        return f"({said})" + (f": {', '.join(failed)}" if failed else "")


class Verdicts:
    """The verdicts of a run, by who was judged, while its rows come."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._held: dict[Who, Verdict] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take one more row into account; measurements say nothing."""
        if not isinstance(record, CheckRecord):
            return
        who = (record.suite, record.architecture, record.subject)
        verdict = self._held.get(who)
        if verdict is None:
            verdict = self._held[who] = Verdict(suite=who[0], architecture=who[1], subject=who[2])
        verdict.rows.append((record.check, record.outcome))
        if record.outcome in BAD and HUNG in record.message:
            verdict.hung = verdict.hung or record.check

    def of(self, suite: str, architecture: str, subject: str) -> Verdict:
        """Of one subject; of one without a row: not judged."""
        empty = Verdict(suite=suite, architecture=architecture, subject=subject)
        return self._held.get((suite, architecture, subject), empty)

    def all(self) -> list[Verdict]:
        """In the order in which the subjects came."""
        return list(self._held.values())

    def lines(self) -> list[str]:
        """One line per subject: its verdict, the counts, and the names of the checks that failed."""
        seen = Counter((v.architecture, v.subject) for v in self.all())
        return [
            f"{v.architecture} of {v.subject}{f' in {v.suite}' if seen[v.architecture, v.subject] > 1 else ''}: "
            f"{v.word} {v.tally}"
            for v in self.all()
        ]
