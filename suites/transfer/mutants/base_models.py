"""The published recipes, as base models of faulty variants."""

from __future__ import annotations

from harness.mutants.variant import BaseModel
from harness.subjects.facts import Recipe
from suites.transfer import architectures as transfer
from suites.transfer import recipe as transfer_recipes


def _transfer(recipe: Recipe) -> BaseModel:
    return BaseModel(family=transfer.FAMILY, architecture=recipe, factory=getattr(transfer_recipes, recipe.name))


FEATURE_EXTRACTION = _transfer(transfer.FEATURE_EXTRACTION)
TWO_LEARNING_RATES = _transfer(transfer.TWO_LEARNING_RATES)
GRADUAL_UNFREEZING = _transfer(transfer.GRADUAL_UNFREEZING)
LAYERWISE_DECAY = _transfer(transfer.LAYERWISE_DECAY)
LP_FT = _transfer(transfer.LP_FT)
FULL_FINE_TUNING = _transfer(transfer.FULL_FINE_TUNING)
