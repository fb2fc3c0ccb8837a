"""One variant before the checks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Literal

import pytest
from hypothesis import settings

from harness.bench.bench import Bench
from harness.bench.drawn_examples import PROFILE, register_profiles
from harness.checks.registry import check_names, find_check
from harness.errors import first_line
from harness.mutants.variant import Variant
from harness.process.global_state import preserved
from harness.process.memory_reuse import with_room

Outcome = Literal["passed", "failed", "skipped", "error"]
FEW_EXAMPLES = "mutants"
SLOW = ("export", "compile")
"""Left out where a correct variant's form can't matter to them: they take longer than the others together."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check said. A check rejects by failing; an error is a fault of the check itself."""

    check: str
    outcome: Outcome
    message: str
    seconds: float


def load_profile() -> None:
    """Fewer drawn examples than for a user's subject: a variant is wrong for a whole class of sizes."""
    register_profiles()
    settings.register_profile(FEW_EXAMPLES, settings.get_profile(PROFILE), max_examples=40)
    settings.load_profile(FEW_EXAMPLES)


def trial(variant: Variant, checks: Iterable[str] | None = None) -> list[CheckResult]:
    """Run the checks (by default all that apply) on ``variant``; global settings are put back after each."""
    with preserved():
        bench = Bench(variant.subject())
        try:
            return [_judge(bench, name) for name in (checks or check_names(variant.family, variant.architecture))]
        finally:
            bench.close()


def _judge(bench: Bench, name: str) -> CheckResult:
    outcome: Outcome = "passed"
    message = ""
    start = time.perf_counter()
    with preserved(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # exporting prints what it refuses
        try:
            with_room(find_check(name, bench.family), bench)
        except AssertionError as error:
            outcome, message = "failed", str(error)
        except pytest.skip.Exception as reason:
            outcome, message = "skipped", str(reason)
        except Exception as error:  # a check must not break, whatever it is given
            outcome, message = "error", f"{type(error).__name__}: {first_line(error)}"
    return CheckResult(check=name, outcome=outcome, message=message, seconds=time.perf_counter() - start)
