"""Conformance of fine-tuning recipes, and the tutorial's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.plugin.fixtures import judge
from harness.plugin.known_deviations import conforming, deviating
from suites.transfer.architectures import FAMILY

if TYPE_CHECKING:
    from harness.bench.bench import Bench


@pytest.mark.filterwarnings("default")  # what a subject warns about is not what it is judged by
def test_conformance(subject: Bench, check: str) -> None:
    judge(subject, check)


NOT_FROZEN = {
    "frozen": "BatchNorm's running statistics are buffers: they follow the new data in train mode",
    "frozen_features": "in train mode BatchNorm normalises with the batch's statistics and dropout drops",
}
NOT_BY_VALUE = "`p not in head.parameters()` compares tensors by value and raises RuntimeError"
NOT_BY_IDENTITY = dict.fromkeys(("groups", "learns", "rates", "trajectory"), NOT_BY_VALUE)
NOT_GRADUAL = {
    "groups": "the first layer is in no group",
    "learns": "the first layer never moves",
    "rates": "the rate doubles towards the earlier layers",
    "phases": "nothing is frozen first, and nothing unfrozen later",
}


@pytest.mark.parametrize(
    ("published", "name"),
    [
        *conforming(FAMILY, "feature_extraction", ("starts_from_given", "unknown_head", "groups", "learns", "resume")),
        *deviating(FAMILY, "feature_extraction", NOT_FROZEN),
        *deviating(FAMILY, "two_learning_rates", NOT_BY_IDENTITY),
        *conforming(FAMILY, "gradual_unfreezing", ("starts_from_given", "unknown_head")),
        *deviating(FAMILY, "gradual_unfreezing", NOT_GRADUAL),
    ],
    indirect=["published"],
)
def test_published(published: Bench, name: str) -> None:
    judge(published, name)
