"""All variants, collected from the modules that define them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from fnmatch import fnmatchcase
from importlib import import_module
from typing import TypeVar

from harness.mutants.mutant import Mutant, Rewriting

V = TypeVar("V", Mutant, Rewriting)

MUTANTS = (
    "resnet_definition",
    "resnet_gradient",
    "resnet_training",
    "resnet_start",
    "efficientnet_definition",
    "efficientnet_training",
    "efficientnet_gradient",
    "vit_definition",
    "vit_tokens",
    "vit_attention",
    "inputs",
    "conditions",
    "layouts",
    "precision",
    "memory",
    "saving",
    "shortcuts",
    "process",
    "lifecycle",
    "regimes",
    "callers",
    "draws",
    "moves",
    "derivatives",
    "tuning",
    "outside",
    "starts",
    "transfer_frozen",
    "transfer_rates",
    "transfer_modes",
    "transfer_generality",
    "transfer_hidden",
    "multitask_network",
    "multitask_losses",
    "multitask_labels",
    "multitask_state",
    "multitask_limits",
    "multitask_hidden",
    "detector_definition",
    "detector_training",
    "detector_detection",
    "detector_pooling",
    "detector_callers",
    "detector_sampling",
    "detector_state",
)
REWRITINGS = (
    "rewritten_resnet",
    "rewritten_efficientnet",
    "rewritten_vit",
    "rewritten_transfer",
    "rewritten_multitask",
    "rewritten_detector",
)


def mutants() -> tuple[Mutant, ...]:
    """Every faulty variant, in the order of definition. Raises ValueError where two have one name."""
    return _unique([m for m in _defined(MUTANTS) if isinstance(m, Mutant)])


def rewritings() -> tuple[Rewriting, ...]:
    """Every correct variant."""
    return _unique([r for r in _defined(REWRITINGS) if isinstance(r, Rewriting)])


def _defined(modules: Sequence[str]) -> list[object]:
    return [value for name in modules for value in vars(import_module(f"harness.mutants.{name}")).values()]


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
