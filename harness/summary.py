"""The short account at the end of a run, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from harness.records.schema import SPEED, CheckRecord, Record


def lines(records: Iterable[Record]) -> Iterator[str]:
    """One line per subject: its verdict, the counts, and the names of the checks that failed."""
    grouped: dict[tuple[str, str], list[CheckRecord]] = {}
    for record in records:
        if isinstance(record, CheckRecord):
            grouped.setdefault((record.architecture, record.subject), []).append(record)
    for (architecture, subject), checks in grouped.items():
        counts = Counter(c.outcome for c in checks)
        failed = [c.check for c in checks if c.outcome in ("failed", "error")]
        wrong = [name for name in failed if not name.startswith(SPEED)]
        judged = any(c.outcome == "passed" and not c.check.startswith(SPEED) for c in checks)
        verdict = "WRONG" if wrong else "right" if judged else "not judged"
        tally = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
        yield f"{architecture} of {subject}: {verdict} ({tally})" + (f": {', '.join(failed)}" if failed else "")
