"""Recipes whose fault shows only for large gradients, micro-batches, a head of several layers, or another phase."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.evidence import Pair
from harness.mutants.mutant import instead, mutant
from harness.mutants.recipes import FEATURE_EXTRACTION, FULL_FINE_TUNING, LP_FT, TWO_LEARNING_RATES, Witness

MOST = 1e4


def _resumed(pair: Pair) -> float:
    """How many parameters train after the second phase's state is loaded, less than with the correct recipe."""
    counts = []
    for recipe in (pair.correct, pair.faulty):
        first, model = recipe(Witness(), "head"), Witness()
        first.advance()
        recipe(model, "head").load_state_dict(first.state_dict())
        counts.append(sum(p.requires_grad for p in model.parameters()))
    return float(counts[0] - counts[1])


@mutant(
    LP_FT,
    "The phase is not saved: resumed within the second, it trains the head alone",
    check="resume",
    category="state",
    evidence=_resumed,
)
def phase_not_saved(tuning: Any) -> Any:
    state, load = tuning.state_dict, tuning.load_state_dict
    tuning.state_dict = lambda: {n: v for n, v in state().items() if n != "phase"}
    tuning.load_state_dict = lambda saved: load({**saved, "phase": tuning.phase})
    return tuning


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
    def clear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            tuning.optimizer.zero_grad()

    tuning.model.register_forward_pre_hook(clear)
    return tuning


def _undecayed(pair: Pair) -> float:
    """The weight decay of any group where none is asked for."""
    tuning = pair.faulty(Witness(), "head", weight_decay=0.0)
    return float(max(group["weight_decay"] for group in tuning.optimizer.param_groups))


@instead(
    TWO_LEARNING_RATES,
    "A weight decay of zero is taken for none given: 0.05 acts",
    check="decay_groups",
    evidence=_undecayed,
)
def zero_decay_not_taken(
    model: nn.Module, head: str, *, lr: float = 1e-2, weight_decay: float = 0.0, optimizer: Any = torch.optim.AdamW
) -> Any:
    return TWO_LEARNING_RATES.factory(model, head, lr=lr, weight_decay=weight_decay or 0.05, optimizer=optimizer)


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
    def hold(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        module.training = False

    for module in tuning.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(hold)
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
