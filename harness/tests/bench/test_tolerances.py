"""Errors of gradients."""

from __future__ import annotations

import pytest
import torch

from harness.bench.tolerances import gradient_errors, gradient_scales


def test_a_missing_gradient_counts_as_zero() -> None:
    errors = gradient_errors({"weight": None}, {"weight": torch.ones(3), "unused": None})
    assert errors == {"weight": 1.0}


def test_rounding_of_a_gradient_that_is_zero_by_mathematics_is_no_error() -> None:
    expected = {"weight": torch.full((4,), 5.0), "bias_before_norm": torch.zeros(4)}
    got = {"weight": torch.full((4,), 5.0), "bias_before_norm": torch.full((4,), 1e-12)}
    assert gradient_scales(expected) == pytest.approx({"weight": 10.0, "bias_before_norm": 1e-5})
    assert gradient_errors(got, expected)["bias_before_norm"] == pytest.approx(2e-7)


def test_a_gradient_that_is_not_finite_is_off_by_infinity() -> None:
    assert gradient_errors({"weight": torch.tensor([float("nan")])}, {"weight": torch.ones(1)}) == {
        "weight": float("inf")
    }
