"""What a faulty variant is, and what a correct one that must pass is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any, Literal

from torch import nn

from harness.mutants.evidence import Evidence, Pair, output
from harness.mutants.specimens import Specimen
from harness.process.global_state import preserved
from harness.subjects.facts import Architecture, Family
from harness.subjects.subject import Subject

Category = Literal[
    "forward",
    "gradient",
    "training",
    "stochastic",
    "size",
    "batch",
    "layout",
    "precision",
    "state",
    "initialisation",
    "shortcut computing",
]
"""What it takes to see the fault. "shortcut computing" is too fast to be true: work left out or remembered."""

Surgery = Callable[[Any], nn.Module]
"""Takes a freshly built correct model and gives the faulty one."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A network made from a correct small one; ``build`` has the correct factory's signature."""

    name: str
    specimen: Specimen
    build: Callable[..., nn.Module]

    @property
    def family(self) -> Family:
        """The family, with references of this size."""
        return self.specimen.family

    @property
    def architecture(self) -> Architecture:
        """Facts of the small instance."""
        return self.specimen.architecture

    def subject(self) -> Subject:
        """As the checks take it."""
        module = ModuleType(self.name)
        setattr(module, self.architecture.name, self.build)
        return Subject(
            label=self.name,
            spec=f"harness.mutants:{self.name}",
            architecture=self.architecture,
            family=self.family,
            factory_name=self.architecture.name,
            module=lambda: module,
        )


@dataclass(frozen=True, kw_only=True)
class Mutant(Variant):
    """One change that makes it wrong.

    ``bug`` says in a sentence what is wrong, ``issue`` where users met it (empty where no report is known),
    ``expected_check`` which check must reject it, and ``evidence`` shows that it differs at all.
    """

    bug: str
    issue: str
    expected_check: str
    category: Category
    evidence: Evidence

    def proof(self) -> float:
        """The evidence's number; above `harness.mutants.evidence.VISIBLE` the variant is not equivalent."""
        with preserved():
            warnings.simplefilter("ignore")  # torch warns of some things once in a process: whoever comes first
            side = self.architecture.input_size if self.architecture.patch else 64
            return self.evidence(Pair(correct=self.specimen.factory, faulty=self.build, side=side))


@dataclass(frozen=True, kw_only=True)
class Rewriting(Variant):
    """A correct network in another form; ``writing`` says which."""

    writing: str


def mutant(
    specimen: Specimen,
    bug: str,
    *,
    check: str,
    category: Category = "forward",
    evidence: Evidence = output,
    issue: str = "",
) -> Callable[[Surgery], Mutant]:
    """Turns a function that alters a correct model into a `Mutant` named after it and the architecture."""

    def make(surgery: Surgery) -> Mutant:
        return Mutant(
            name=f"{specimen.family.name}_{surgery.__name__}",
            specimen=specimen,
            build=_altered(specimen, surgery),
            bug=bug,
            issue=issue,
            expected_check=check,
            category=category,
            evidence=evidence,
        )

    return make


def rewriting(specimen: Specimen, writing: str) -> Callable[[Surgery], Rewriting]:
    """Turns a function that alters a correct model's form into a `Rewriting`."""

    def make(surgery: Surgery) -> Rewriting:
        name = f"{specimen.family.name}_{surgery.__name__}"
        return Rewriting(name=name, specimen=specimen, build=_altered(specimen, surgery), writing=writing)

    return make


def instead(
    specimen: Specimen,
    bug: str,
    *,
    check: str,
    category: Category = "training",
    evidence: Evidence = output,
    issue: str = "",
) -> Callable[[Callable[..., Any]], Mutant]:
    """As `mutant`, for a function that stands in place of the correct one (a recipe, a loss) and is called like it."""

    def make(replacement: Callable[..., Any]) -> Mutant:
        return Mutant(
            name=f"{specimen.family.name}_{replacement.__name__}",
            specimen=specimen,
            build=replacement,
            bug=bug,
            issue=issue,
            expected_check=check,
            category=category,
            evidence=evidence,
        )

    return make


def rewritten(specimen: Specimen, writing: str) -> Callable[[Callable[..., Any]], Rewriting]:
    """As `rewriting`, for a function that stands in place of the correct one."""

    def make(replacement: Callable[..., Any]) -> Rewriting:
        name = f"{specimen.family.name}_{replacement.__name__}"
        return Rewriting(name=name, specimen=specimen, build=replacement, writing=writing)

    return make


def _altered(specimen: Specimen, surgery: Surgery) -> Callable[..., nn.Module]:
    @wraps(specimen.factory)  # the checks read the signature
    def build(*args: Any, **keywords: Any) -> nn.Module:
        return surgery(specimen.factory(*args, **keywords))

    return build
