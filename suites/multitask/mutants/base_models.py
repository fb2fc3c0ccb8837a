"""A small multi-task network, the losses, the weighting and the projection."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from harness.mutants.variant import BaseModel
from harness.subjects.facts import Recipe
from suites.multitask import architectures as multitask
from suites.multitask import model as multitask_model
from suites.resnet.model import BasicBlock, ResNet
from suites.resnet.mutants.base_models import DEPTHS, RESNET12


def multitask_resnet12(num_classes: int = 10) -> multitask_model.MultiTask:
    """The three heads on a ResNet-12."""
    backbone = ResNet(BasicBlock, DEPTHS, num_classes=1)
    backbone.head = nn.Identity()  # type: ignore[assignment]
    return multitask_model.MultiTask(backbone, 512, num_classes=num_classes)


def _network() -> BaseModel:
    heads = {"classes": 5_130, "box": 2_052, "embedding": 65_664}
    architecture = replace(
        multitask.MULTITASK_RESNET50,
        name="multitask_resnet12",
        parameters=TRUNK_PARAMETERS + sum(heads.values()),
        residual_joins=sum(DEPTHS),
        source="a ResNet-12 without its head, and linear heads of 10, 4 and 128 on 512 features",
        facts={"trunk": RESNET12.architecture.name, "shared": TRUNK_PARAMETERS, "heads": heads},
    )
    family = replace(multitask.FAMILY, references=RESNET12.family.references)
    return BaseModel(family=family, architecture=architecture, factory=multitask_resnet12)


def _multitask(recipe: Recipe) -> BaseModel:
    return BaseModel(family=multitask.FAMILY, architecture=recipe, factory=getattr(multitask_model, recipe.name))


TRUNK_PARAMETERS = RESNET12.architecture.parameters - 513_000
NETWORK = _network()
LOSS = _multitask(multitask.MULTITASK_LOSS)
WEIGHTING = _multitask(multitask.UNCERTAINTY_WEIGHTING)
PROJECTION = _multitask(multitask.PCGRAD)
