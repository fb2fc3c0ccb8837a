"""The short account at the end of a run, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from harness.records import CheckRecord, Record


def lines(records: Iterable[Record]) -> Iterator[str]:
    """One line per subject: its verdict, the counts, and the names of the checks that failed."""
    grouped: dict[tuple[str, str], list[CheckRecord]] = {}
    for record in records:
        if isinstance(record, CheckRecord):
            grouped.setdefault((record.architecture, record.subject), []).append(record)
    for (architecture, subject), checks in grouped.items():
        counts = Counter(c.outcome for c in checks)
        wrong = [c.check for c in checks if c.outcome in ("failed", "error")]
        verdict = "WRONG" if wrong else "right" if counts["passed"] else "not judged"
        tally = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
        yield f"{architecture} of {subject}: {verdict} ({tally})" + (f": {', '.join(wrong)}" if wrong else "")
