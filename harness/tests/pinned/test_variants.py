"""Every faulty and correct variant keeps name, family, category and expected check; their order may change."""

from __future__ import annotations

from harness.mutants.catalogue import correct_variants, mutants
from harness.tests.pinned.pinning import expect_as_recorded


def test_variants() -> None:
    faulty = [f"{m.name} | {m.family.name} | {m.category} | {m.expected_check}" for m in mutants()]
    correct = [f"{r.name} | {r.family.name} | correct" for r in correct_variants()]
    expect_as_recorded("mutants.txt", "\n".join([*sorted(faulty), *sorted(correct)]) + "\n")
