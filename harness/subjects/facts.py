"""Published facts about an architecture, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from reference.libraries.reference import Reference


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage's feature map: ``width`` channels at ``1/stride`` of the input's height and width (rounded up)."""

    width: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A published definition with a name and the facts that an implementation is held to.

    ``parameters`` is exact, for 1,000 classes and 3 input channels. ``multiply_adds`` is the published count of fused
    multiply-adds of one forward pass over one image of ``input_size`` (papers call it FLOPs), and
    ``multiply_adds_tolerance`` the relative rounding of that publication.
    """

    name: str
    aliases: tuple[str, ...] = ()
    parameters: int
    multiply_adds: float
    multiply_adds_tolerance: float
    residual_joins: int
    input_size: int = 224
    stages: tuple[Stage, ...] = ()
    """Feature maps of convolutional families, first stage first; empty where the family has none."""
    tokens: tuple[int, int] | None = None
    """(tokens, width) of a transformer at ``input_size``; None for convolutional families."""
    patch: int | None = None
    """Image sides are multiples of this and fixed at construction; None where any size is taken."""
    minimum_size: int = 32
    """Smallest side in pixels used by checks on real values (train-mode statistics stay defined)."""
    default: bool = False
    """Judged and measured when the user names no architecture."""
    large: bool = False
    """Too big for every check on real values by default; facts and shapes are checked on the meta device."""
    source: str
    """Paper and table."""
    conventions: tuple[Mapping[str, Any], ...] = ({},)
    """Where the references themselves differ (BatchNorm eps of EfficientNet-B5): keyword arguments to
    `Reference.build`; an implementation has to agree with one of them throughout."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is particular to the family (drop rates, coefficients, heads)."""
    own: bool = True
    """Whether the suite's own model module has it; else it is judged only where a ``--subject`` brings it."""
    checks: tuple[str, ...] | None = None
    """Names of the checks that apply; None for all shared ones and the family's own checks."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name and all aliases."""
        return (self.name, *self.aliases)

    def matches(self, pattern: str) -> bool:
        """Whether a name or glob, as given to ``--arch``, selects this architecture."""
        return any(fnmatchcase(name, pattern) for name in self.names)


@dataclass(frozen=True, kw_only=True)
class Recipe(Architecture):
    """A published way of training or of combining losses: it has a name, a source and checks, and no network of its
    own, so that nothing is counted."""

    parameters: int = 0
    multiply_adds: float = 0.0
    multiply_adds_tolerance: float = 0.0
    residual_joins: int = 0
    default: bool = True


@dataclass(frozen=True, kw_only=True)
class Listed(Architecture):
    """A name in a library's own list of models, held to what any network promises; nothing published is counted."""

    parameters: int = 0
    multiply_adds: float = 0.0
    multiply_adds_tolerance: float = 0.0
    residual_joins: int = 0
    patch: int | None = 1
    """Which sizes a model takes besides its own is published nowhere: each is treated as fixed at construction."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The architectures of one suite, where its own models live, and its references."""

    name: str
    architectures: tuple[Architecture, ...]
    model: str
    """Importable module with one factory per architecture name."""
    references: Callable[[], tuple[Reference, ...]]
    """Imports the libraries only when called."""
    own_checks: tuple[str, ...] = ()
    """Names of the family's own checks: ``check_<name>(bench)`` in ``suites/<family>/checks``; one that has the
    name of a shared check stands in for it."""
    listing: Callable[[str], tuple[Architecture, ...]] | None = None
    """Of an open family: the architectures that a ``--subject`` lists itself. Such a family is judged where its folder
    is named, or everything is asked for (``--arch '*'``)."""

    def of(self, spec: str) -> tuple[Architecture, ...]:
        """The architectures that the ``--subject`` ``spec`` may have."""
        return self.architectures if self.listing is None else self.listing(spec)

    def find(self, name: str) -> Architecture | None:
        """The architecture called ``name`` (or having it as alias), else None."""
        return next((a for a in self.architectures if name in a.names), None)
