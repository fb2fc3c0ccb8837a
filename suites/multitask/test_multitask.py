"""Conformance of the multi-task network and its losses, and the tutorial's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.plugin.fixtures import judge
from harness.plugin.known_deviations import conforming, deviating
from suites.multitask.architectures import FAMILY

if TYPE_CHECKING:
    from harness.bench.bench import Bench


@pytest.mark.filterwarnings("default")  # what a subject warns about is not what it is judged by
def test_conformance(subject: Bench, check: str) -> None:
    judge(subject, check)


NOT_NORMALISED = "the embedding is the plain output of a linear layer"
NOT_A_LOSS = "adds a cosine similarity, which is a vector with one number per image, so that backward() raises"


@pytest.mark.parametrize(
    ("published", "name"),
    [
        *conforming(FAMILY, "multitask_resnet50", ("task_parameters", "task_gradients", "trunk")),
        *deviating(FAMILY, "multitask_resnet50", {"embedding_norm": NOT_NORMALISED, "linear_heads": NOT_NORMALISED}),
        *deviating(FAMILY, "multitask_loss", {"loss_value": NOT_A_LOSS, "trunk_gradient": NOT_A_LOSS}),
    ],
    indirect=["published"],
)
def test_published(published: Bench, name: str) -> None:
    judge(published, name)
