"""Conformance of Vision Transformers: the shared checks and the family's own checks on every subject."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from harness.plugin.fixtures import judge
from harness.plugin.known_deviations import conforming
from suites.vit.architectures import FAMILY, VIT_TINY_8

if TYPE_CHECKING:
    from harness.bench.bench import Bench


def test_conformance(subject: Bench, check: str) -> None:
    judge(subject, check)


@pytest.mark.parametrize(
    ("published", "name"),
    [*conforming(FAMILY, "vit_b_16", ("parameters", "multiply_adds")), *conforming(FAMILY, "vit_tiny_8")],
    indirect=["published"],
)
def test_published(published: Bench, name: str) -> None:
    """The counts do not tell the listing from ViT-B/16; with its three defaults reversed (small) it is a ViT."""
    judge(published, name)


POST_NORM: dict[str, Any] = {"norm_first": False}
RELU: dict[str, Any] = {"activation": "relu"}
EPS: dict[str, Any] = {"norm_eps": 1e-5}


@pytest.mark.parametrize(
    "deviation",
    [
        pytest.param(deviation, id=name, marks=pytest.mark.xfail(strict=True, reason=f"published listing: {why}"))
        for name, deviation, why in (
            ("norm_order", POST_NORM, "post-norm: the norm follows the residual sum; ViT normalises a branch's input"),
            ("activation", RELU, "ReLU in the perceptron; ViT has GELU"),
            ("norm_eps", EPS, "LayerNorm eps 1e-5; ViT's published code has 1e-6"),
            ("as_published", {**POST_NORM, **RELU, **EPS}, "post-norm, ReLU and eps 1e-5 together"),
        )
    ],
)
def test_published_deviation(deviation: dict[str, Any]) -> None:
    """Each deviation alone is enough to be rejected, on a small instance of the listing."""
    from functools import partial

    from harness.bench.bench import Bench
    from harness.checks.parity.eval_mode import check_parity_eval
    from harness.subjects.subject import Subject
    from suites.vit import published

    module = ModuleType("one_deviation")
    module.vit_tiny_8 = partial(published.vit_tiny_8, **deviation)  # type: ignore[attr-defined]
    subject = Subject(
        label=f"published listing with {deviation}",
        spec="suites.vit.published",
        architecture=VIT_TINY_8,
        family=FAMILY,
        factory_name="vit_tiny_8",
        module=lambda: module,
    )
    check_parity_eval(Bench(subject))
