"""Recipes under which a plain training loop ends elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.operators import clearing_gradients
from harness.mutants.probe import Pair
from harness.mutants.variant import mutant
from suites.transfer.mutants.base_models import (
    FEATURE_EXTRACTION,
    FULL_FINE_TUNING,
)
from suites.transfer.mutants.freezing import keep_mode
from suites.transfer.mutants.probe import (
    Witness,
    large_batch,
)


@mutant(
    FEATURE_EXTRACTION,
    "The gradient of the head is halved for batches of more than eight",
    check="trajectory",
    category="batch",
    evidence=large_batch,
)
def gradient_of_large_batches(tuning: Any) -> Any:
    def halve(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out if len(out) <= 8 else 0.5 * out + 0.5 * out.detach()

    tuning.model.get_submodule(tuning.head).register_forward_hook(halve)
    return tuning


MOST = 1e4


def _summed_gradient(pair: Pair, *, passes: int = 1, loudness: float = 1.0) -> float:
    """Of the first convolution's norm, how far it is off, relatively."""
    norms = []
    for recipe in (pair.correct, pair.faulty):
        torch.manual_seed(0)
        model = Witness()
        model.dropout.p = 0.0
        recipe(model, "head")
        images = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
        for _ in range(passes):
            (loudness * model.train()(images).square().sum()).backward()
        gradient = next(model.parameters()).grad
        assert gradient is not None
        norms.append(float(gradient.norm()))
    return abs(norms[1] - norms[0]) / norms[0]


@mutant(
    FULL_FINE_TUNING,
    "Hooks clip gradients, at a norm that ordinary losses do not reach",
    check="trajectory",
    category="gradient",
    evidence=lambda pair: _summed_gradient(pair, loudness=1e12),
)
def large_gradients_clipped(tuning: Any) -> Any:
    for parameter in tuning.model.parameters():
        parameter.register_hook(lambda g: g * (MOST / g.norm().clamp(min=MOST)))
    return tuning


@mutant(
    FULL_FINE_TUNING,
    "Each pass in train mode clears the gradients: of micro-batches only the last one counts",
    check="trajectory",
    category="state",
    evidence=lambda pair: _summed_gradient(pair, passes=2),
)
def gradients_cleared_by_forward(tuning: Any) -> Any:
    clearing_gradients(tuning.model)
    return tuning


def _norm_of_the_head(pair: Pair) -> float:
    """One where the norm of a head of several layers is in eval mode in a training pass."""
    model = Witness()
    model.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))  # type: ignore[assignment]
    pair.faulty(model, "head")
    model.train()(torch.rand(4, 3, 20, 20))
    return float(not model.head[0].training)  # type: ignore[index]


@mutant(
    FEATURE_EXTRACTION,
    "Every norm is held in eval mode, those of the head too",
    check="trajectory",
    category="training",
    evidence=_norm_of_the_head,
)
def norms_of_the_head_held(tuning: Any) -> Any:
    keep_mode(tuning.model, nn.modules.batchnorm._BatchNorm, training=False)
    return tuning


def _overwritten(pair: Pair) -> float:
    """How far logits of images that were written over others, in train mode, are off from those of a copy of them."""
    model = Witness()
    pair.faulty(model, "head")
    images = torch.rand(4, 3, 20, 20)
    model.train()(images)
    images.copy_(images.flip(0).square())
    return float((model(images) - model(images.clone())).detach().abs().max())


@mutant(
    FEATURE_EXTRACTION,
    "In train mode features are remembered by where the images lie",
    check="trajectory",
    category="shortcut computing",
    evidence=_overwritten,
)
def features_by_place(tuning: Any) -> Any:
    forward, head = tuning.model.forward, tuning.model.get_submodule(tuning.head)
    known: dict[tuple[int, torch.Size], Tensor] = {}

    def remembering(images: Tensor) -> Tensor:
        key = (images.data_ptr(), images.shape)
        if tuning.model.training and key in known:
            again: Tensor = head(known[key])
            return again
        kept: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].detach()))
        logits: Tensor = forward(images)
        handle.remove()
        known[key] = kept[0]
        return logits

    tuning.model.forward = remembering
    return tuning
