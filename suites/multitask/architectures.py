"""The multi-task network, its losses, and the checks that each is held to."""

from __future__ import annotations

from harness.subjects.facts import Architecture, Family, Recipe
from reference.libraries.reference import Reference

NETWORK = (
    "task_parameters",
    "task_shapes",
    "task_gradients",
    "linear_heads",
    "embedding_norm",
    "trunk",
    "instances",
    "task_memory",
)
LOSS = ("loss_value", "loss_weights", "masked_tasks", "absent_task", "trunk_gradient", "bad_labels")
WEIGHTING = ("log_variances", "weighted_sum", "weighting_learns")
PROJECTION = ("projected_gradients", "head_gradients")

MULTITASK_RESNET50 = Architecture(
    name="multitask_resnet50",
    parameters=23_798_990,
    multiply_adds=4.09e9,
    multiply_adds_tolerance=0.01,
    residual_joins=16,
    default=True,
    source="ResNet-50's 23,508,032 without its head, and linear heads of 10, 4 and 128 on 2,048 features",
    facts={"trunk": "resnet50", "shared": 23_508_032, "heads": {"classes": 20_490, "box": 8_196, "embedding": 262_272}},
    checks=NETWORK,
)
MULTITASK_LOSS = Recipe(
    name="multitask_loss",
    source="a weighted sum of cross-entropy, mean squared error and one minus the cosine similarity",
    checks=LOSS,
)
UNCERTAINTY_WEIGHTING = Recipe(
    name="uncertainty_weighting",
    source="Kendall et al. 2018 (arXiv:1705.07115), equation 10",
    checks=WEIGHTING,
)
PCGRAD = Recipe(name="pcgrad", source="Yu et al. 2020 (arXiv:2001.06782), algorithm 1", checks=PROJECTION)


def _references() -> tuple[Reference, ...]:
    """Of the trunk."""
    from suites.resnet.architectures import FAMILY as RESNETS

    return RESNETS.references()


FAMILY = Family(
    name="multitask",
    architectures=(MULTITASK_RESNET50, MULTITASK_LOSS, UNCERTAINTY_WEIGHTING, PCGRAD),
    model="suites.multitask.model",
    references=_references,
    own_checks=(*NETWORK, *LOSS, *WEIGHTING, *PROJECTION),
)
