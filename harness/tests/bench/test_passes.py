"""What a pass restores."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.bench.passes import restored, training_only


def test_modes_and_buffers_are_restored_and_gradients_removed_also_after_an_error() -> None:
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(nn.Linear(2, 3), norm).eval()
    norm.train()
    assert norm.running_mean is not None
    before = norm.running_mean.clone()

    def fail() -> None:
        with restored(model):
            model.train()(torch.randn(4, 2)).sum().backward()
            raise RuntimeError("after the backward pass")

    with pytest.raises(RuntimeError, match="after the backward pass"):
        fail()
    assert [m.training for m in model.modules()] == [False, False, True]
    assert torch.equal(norm.running_mean, before)
    assert all(p.grad is None for p in model.parameters())


def test_parameters_that_were_frozen_before_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].bias.requires_grad_(False)
    with training_only(model, ("1.weight",)):
        assert [n for n, p in model.named_parameters() if p.requires_grad] == ["1.weight"]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["0.bias"]
