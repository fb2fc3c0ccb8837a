"""Bounds of the train-mode comparison."""

from __future__ import annotations

from typing import Any

from harness.bench.bench import Bench
from harness.checks.registry import find_check
from harness.subjects.loading import family_of, own_subjects


class Notes(dict[str, Any]):
    """Notes that keep every bound, also one that a later comparison of the same check replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds: list[dict[str, float]] = []

    def update(self, *given: Any, **named: Any) -> None:
        super().update(*given, **named)
        self.bounds.append({n: v for n, v in dict(*given, **named).items() if n.endswith("bound")})


def test_bounds_are_the_same_alone_and_after_other_checks() -> None:
    seen = []
    for before in ((), ("parity_eval",)):
        (subject,) = own_subjects(family_of("vit"), ("vit_tiny_8",))  # without statistics and draws: eval mode decides
        bench = Bench(subject)
        for name in before:
            find_check(name, bench.family)(bench)
        bench.notes = notes = Notes()
        find_check("parity_train", bench.family)(bench)
        bench.close()
        seen.append(notes.bounds)
    alone, after = seen
    assert len(alone) > 1
    assert alone == after
