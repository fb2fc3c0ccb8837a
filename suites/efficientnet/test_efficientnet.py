"""Conformance of EfficientNets: the shared checks and the family's own checks on every subject."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from harness.plugin.fixtures import judge
from suites.efficientnet.architectures import B5, B6, B7, FAMILY

if TYPE_CHECKING:
    from torch import nn

    from harness.bench.bench import Bench
    from harness.subjects.facts import Architecture


def test_conformance(subject: Bench, check: str) -> None:
    judge(subject, check)


WIDTH = 0.125
"""Of B0: the large members' depth and constants at a width that takes a second or two."""


def narrowed(architecture: Architecture) -> Bench:
    """Our own model of a large member at its own depth and `WIDTH`, beside torchvision's of the same sizes."""
    from harness.bench.bench import Bench
    from harness.subjects.subject import Subject
    from reference.libraries.reference import Reference
    from reference.libraries.torchvision_efficientnet import REFERENCE, build_scaled
    from suites.efficientnet.model import EfficientNet, Recipe

    depth = architecture.facts["depth"]
    dropout = architecture.facts["dropout"]

    def ours(num_classes: int = 1000) -> EfficientNet:
        recipe = Recipe(norm_eps=1e-3, norm_momentum=0.01)
        return EfficientNet(WIDTH, depth, recipe=recipe, num_classes=num_classes, dropout=dropout)

    def theirs(name: str, *, num_classes: int = 1000, dropout: float = dropout, drop_path: float = 0.2) -> nn.Module:
        return build_scaled(WIDTH, depth, num_classes=num_classes, dropout=dropout, drop_path=drop_path)

    module = ModuleType("narrowed")
    setattr(module, architecture.name, ours)
    reference = Reference(library="torchvision", version=REFERENCE.version, build=theirs)
    return Bench(
        Subject(
            label="ours, narrowed",
            spec=FAMILY.model,
            architecture=replace(architecture, conventions=({},)),
            family=replace(FAMILY, references=lambda: (reference,)),
            factory_name=architecture.name,
            module=partial(lambda found: found, module),
        )
    )


@pytest.mark.parametrize("name", ["parity_eval", "parity_train", "gates"])
@pytest.mark.parametrize("architecture", [B5, B6, B7], ids=lambda a: a.name)
def test_large_members_narrowed(architecture: Architecture, name: str) -> None:
    judge(narrowed(architecture), name)
