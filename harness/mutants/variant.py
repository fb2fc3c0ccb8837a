"""What a faulty variant is, what a correct one that must pass is, and the base models of both."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from types import ModuleType
from typing import Any, Literal, TypeVar

from torch import nn

from harness.mutants.probe import Evidence, Pair, gradient, output, parameters, statistics, train_output
from harness.process.global_state import preserved
from harness.subjects.facts import Architecture, Family
from harness.subjects.subject import Subject

SOURCE = "a small instance of the published definition, for mutants; counts: torchvision's classes"


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A small architecture, its family (with references of that size) and our own correct model of it."""

    family: Family
    architecture: Architecture
    factory: Callable[..., nn.Module]


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
    base: BaseModel
    build: Callable[..., nn.Module]

    @property
    def family(self) -> Family:
        """The family, with references of this size."""
        return self.base.family

    @property
    def architecture(self) -> Architecture:
        """Facts of the small instance."""
        return self.base.architecture

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
        """The evidence's number; above `harness.mutants.probe.VISIBLE` the variant is not equivalent."""
        with preserved():
            warnings.simplefilter("ignore")  # torch warns of some things once in a process: whoever comes first
            side = self.architecture.input_size if self.architecture.patch else 64
            return self.evidence(Pair(correct=self.base.factory, faulty=self.build, side=side))


@dataclass(frozen=True, kw_only=True)
class Correct(Variant):
    """A correct network in another form; ``writing`` says which."""

    writing: str


def mutant(
    base: BaseModel,
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
            name=f"{base.family.name}_{surgery.__name__}",
            base=base,
            build=_altered(base, surgery),
            bug=bug,
            issue=issue,
            expected_check=check,
            category=category,
            evidence=evidence,
        )

    return make


gradient_fault = partial(mutant, category="gradient", evidence=gradient)
parameters_fault = partial(mutant, check="parameters", evidence=parameters)
statistics_fault = partial(mutant, check="parity_train", category="training", evidence=statistics)
random_fault = partial(mutant, check="stochastic", category="stochastic", evidence=train_output)
process_fault = partial(mutant, check="global_state", category="state")
saving_fault = partial(mutant, check="state_dict_round_trip", category="state")
start_fault = partial(mutant, check="initialisation", category="initialisation")
"""`mutant` for what many variants have wrong: gradients, the number of parameters, running statistics, what is drawn,
settings of the process, what is saved, what a network starts with."""


def correct(base: BaseModel, writing: str) -> Callable[[Surgery], Correct]:
    """Turns a function that alters a correct model's form into a `Correct`."""

    def make(surgery: Surgery) -> Correct:
        name = f"{base.family.name}_{surgery.__name__}"
        return Correct(name=name, base=base, build=_altered(base, surgery), writing=writing)

    return make


def instead(
    base: BaseModel,
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
            name=f"{base.family.name}_{replacement.__name__}",
            base=base,
            build=replacement,
            bug=bug,
            issue=issue,
            expected_check=check,
            category=category,
            evidence=evidence,
        )

    return make


def correct_instead(base: BaseModel, writing: str) -> Callable[[Callable[..., Any]], Correct]:
    """As `correct`, for a function that stands in place of the correct one."""

    def make(replacement: Callable[..., Any]) -> Correct:
        name = f"{base.family.name}_{replacement.__name__}"
        return Correct(name=name, base=base, build=replacement, writing=writing)

    return make


def _altered(base: BaseModel, surgery: Surgery) -> Callable[..., nn.Module]:
    @wraps(base.factory)  # the checks read the signature
    def build(*args: Any, **keywords: Any) -> nn.Module:
        return surgery(base.factory(*args, **keywords))

    return build


M = TypeVar("M", bound=nn.Module)


def become(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Give a module another class: its parameters and submodules stay, its ``forward`` changes."""
    module.__class__ = kind
    return module


def replaced(model: M, name: str, module: nn.Module) -> M:
    """``model`` with the submodule called ``name`` exchanged."""
    model.set_submodule(name, module)
    return model


def of_type(model: nn.Module, kind: type[M]) -> list[tuple[str, M]]:
    """Names and modules of exactly this class, in the order of definition."""
    return [(n, m) for n, m in model.named_modules() if type(m) is kind]


class Around(nn.Module):
    """A network inside another module that does something before or after it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
