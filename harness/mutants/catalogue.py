"""All variants, collected from the suites' folders ``mutants``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from harness.mutants.variant import Correct, Mutant
from harness.subjects.loading import families

V = TypeVar("V", Mutant, Correct)


def mutants() -> tuple[Mutant, ...]:
    """Every faulty variant, by suite and file, in the order of definition. Raises ValueError for a name used twice."""
    return _unique([m for m in _defined() if isinstance(m, Mutant)])


def correct_variants() -> tuple[Correct, ...]:
    """Every correct variant."""
    return _unique([c for c in _defined() if isinstance(c, Correct)])


def _defined() -> Iterator[object]:
    for family in families():
        folder = Path(str(import_module(f"suites.{family.name}").__file__)).parent / "mutants"
        for file in sorted(folder.glob("[!_]*.py")):
            yield from vars(import_module(f"suites.{family.name}.mutants.{file.stem}")).values()


def _unique(variants: list[V]) -> tuple[V, ...]:
    names = [v.name for v in variants]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ValueError(f"two variants are called {', '.join(sorted(twice))}")
    return tuple(variants)


def select(variants: Sequence[V], pattern: str, *, family: str = "", turn: int = 0) -> list[V]:
    """Those that ``all``, ``third`` (every third, from number ``turn`` on) or a name or glob selects."""
    of_family = [v for v in variants if family in ("", v.family.name)]
    if pattern == "all":
        return of_family
    if pattern == "third":
        return of_family[turn % 3 :: 3]
    return [v for v in of_family if fnmatchcase(v.name, pattern)]


def turn_of_day() -> int:
    """Which third it is today."""
    return date.today().toordinal() % 3
