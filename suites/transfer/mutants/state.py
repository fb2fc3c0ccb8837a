"""Recipes with a fault in their state: what they start from, save and resume."""

from __future__ import annotations

from typing import Any

import torch

from harness.mutants.probe import Pair
from harness.mutants.variant import mutant
from suites.transfer.mutants.base_models import (
    FEATURE_EXTRACTION,
    FULL_FINE_TUNING,
    LP_FT,
)
from suites.transfer.mutants.probe import (
    Witness,
    names_added,
    reseeding,
    scheduled_reload,
)


@mutant(
    FULL_FINE_TUNING,
    "The first weights are kept as buffers of the network, and saved with it ever after",
    check="starts_from_given",
    category="state",
    evidence=names_added,
)
def first_weights_as_buffers(tuning: Any) -> Any:
    for name, parameter in list(tuning.model.named_parameters()):
        tuning.model.register_buffer("first_" + name.replace(".", "_"), parameter.detach().clone())
    return tuning


@mutant(
    FEATURE_EXTRACTION,
    "Applying the recipe seeds torch's generator",
    check="starts_from_given",
    category="state",
    evidence=reseeding,
)
def seeds_torch(tuning: Any) -> Any:
    torch.manual_seed(0)
    return tuning


@mutant(
    FEATURE_EXTRACTION,
    "The scheduler's place is not saved",
    check="resume",
    category="state",
    evidence=scheduled_reload,
)
def schedule_not_saved(tuning: Any) -> Any:
    state = tuning.state_dict
    tuning.state_dict = lambda: {**state(), "scheduler": None}
    return tuning


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
