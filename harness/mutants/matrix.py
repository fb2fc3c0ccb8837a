"""The kill matrix: every variant before every check, and what to make of it."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.checks.registry import SHARED
from harness.mutants.catalogue import correct_variants, mutants
from harness.mutants.probe import VISIBLE
from harness.mutants.trial import CheckResult, load_profile, trial
from harness.mutants.variant import Correct, Mutant, Variant
from harness.process.memory_reuse import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant's verdicts; ``evidence`` is a mutant's own number, None for a correct variant."""

    name: str
    verdicts: tuple[CheckResult, ...]
    evidence: float | None

    @property
    def rejected_by(self) -> list[str]:
        """Checks that rejected it, in their order."""
        return [v.check for v in self.verdicts if v.outcome == "failed"]

    @property
    def broken(self) -> list[CheckResult]:
        """Checks that raised something else than AssertionError: faults of the checks."""
        return [v for v in self.verdicts if v.outcome == "error"]

    @property
    def seconds(self) -> float:
        """Of all its checks."""
        return sum(v.seconds for v in self.verdicts)


@dataclass(kw_only=True)
class Matrix:
    """Rows by variant, filled as they come."""

    mutants: Sequence[Mutant]
    correct_variants: Sequence[Correct]
    rows: dict[str, Row] = field(default_factory=dict)

    def run(self, jobs: int = 1) -> Iterator[Row]:
        """Try every variant, yielding each as it is done; ``jobs`` is the number of processes."""
        variants: list[Variant] = [*self.correct_variants, *self.mutants]
        if jobs == 1:
            rows: Iterator[Row] = (_row_of(v) for v in variants)
        else:
            rows = _in_processes([v.name for v in variants], jobs)
        for row in rows:
            self.rows[row.name] = row
            yield row

    def complaints(self) -> list[str]:
        """One line for each survivor, false alarm, wrong killer, missing proof and broken check; and each check that
        rejects no mutant that expects it, where all mutants were tried."""
        lines = []
        for mutant in self.mutants:
            row = self.rows.get(mutant.name)
            if row is not None:
                lines += [f"{mutant.name}: {what}" for what in faults(mutant, row)]
        for variant in self.correct_variants:
            row = self.rows.get(variant.name)
            if row is not None:
                lines += [
                    f"{variant.name}: false alarm of {v.check}: {v.message}"
                    for v in row.verdicts
                    if v.outcome in ("failed", "error")
                ]
        if len(self.mutants) == len(mutants()):
            idle = [c for c in self.checks() if not any(m.expected_check == c for m in self.mutants)]
            lines += [f"{check}: no mutant expects to be rejected by it" for check in idle]
        return lines

    def checks(self) -> list[str]:
        """The shared checks and the own checks of the families here."""
        own = dict.fromkeys(p for v in (*self.mutants, *self.correct_variants) for p in v.family.own_checks)
        return [*SHARED, *own]

    def as_json(self) -> dict[str, Any]:
        """As ``mutants.json`` has it; only what was tried."""
        tried = [(m, self.rows[m.name]) for m in self.mutants if m.name in self.rows]
        correct = [(r, self.rows[r.name]) for r in self.correct_variants if r.name in self.rows]
        return {
            "checks": self.checks(),
            "mutants": [
                {
                    "name": mutant.name,
                    "family": mutant.family.name,
                    "bug": mutant.bug,
                    "issue": mutant.issue,
                    "category": mutant.category,
                    "expected_check": mutant.expected_check,
                    "killed_by": row.rejected_by,
                    "seconds": round(row.seconds, 3),
                    "evidence": row.evidence,
                    "message": next((v.message for v in row.verdicts if v.check == mutant.expected_check), ""),
                }
                for mutant, row in tried
            ],
            "correct": [
                {
                    "name": variant.name,
                    "family": variant.family.name,
                    "writing": variant.writing,
                    "false_alarms": [v.check for v in row.verdicts if v.outcome in ("failed", "error")],
                    "seconds": round(row.seconds, 3),
                }
                for variant, row in correct
            ],
        }

    def write(self, folder: Path) -> Path:
        """Write ``mutants.json`` into a run's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "mutants.json"
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        return path


def faults(mutant: Mutant, row: Row) -> list[str]:
    """What is wrong with the outcome of a mutant's trial; empty where all is well."""
    found = []
    if not row.rejected_by:
        found.append("survived")
    elif mutant.expected_check not in row.rejected_by:
        found.append(f"not rejected by {mutant.expected_check} but by {', '.join(row.rejected_by)}")
    if row.evidence is not None and not row.evidence > VISIBLE:
        found.append(f"no evidence that it is faulty ({row.evidence:.1e})")
    found += [f"{v.check} broke: {v.message}" for v in row.broken]
    return found


def _row_of(variant: Variant, checks: Sequence[str] | None = None) -> Row:
    """Try one variant."""
    evidence = variant.proof() if isinstance(variant, Mutant) else None
    return Row(name=variant.name, verdicts=tuple(trial(variant, checks)), evidence=evidence)


def _in_processes(names: Sequence[str], jobs: int) -> Iterator[Row]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start) as pool:
        for future in as_completed([pool.submit(_named, name) for name in names]):
            yield future.result()


def _start() -> None:
    import torch

    torch.set_num_threads(1)
    logging.getLogger("torch").setLevel(logging.ERROR)
    load_profile()
    keep_freed_memory()


def _named(name: str) -> Row:
    return _row_of(next(v for v in (*mutants(), *correct_variants()) if v.name == name))
