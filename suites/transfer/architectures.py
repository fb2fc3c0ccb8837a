"""The fine-tuning recipes: their names, sources, and the checks that each is held to."""

from __future__ import annotations

from harness.subjects.facts import Family, Recipe
from reference.libraries.reference import Reference

ALL = (
    "starts_from_given",
    "unknown_head",
    "groups",
    "learns",
    "trajectory",
    "evaluates",
    "resume",
    "scheduler",
    "decay_groups",
)
"""What every recipe promises."""
FROZEN = ("frozen", "frozen_features")
ALL_TRAINS = ("rates", "dropout")
"""Of those that train everything, at last."""

FEATURE_EXTRACTION = Recipe(
    name="feature_extraction",
    source="Donahue et al. 2013 (arXiv:1310.1531)",
    checks=(*ALL, *FROZEN),
)
FULL_FINE_TUNING = Recipe(
    name="full_fine_tuning",
    aliases=("fine_tuning",),
    source="Girshick et al. 2013 (arXiv:1311.2524), section 2.3",
    checks=(*ALL, *ALL_TRAINS),
)
TWO_LEARNING_RATES = Recipe(
    name="two_learning_rates",
    source="Girshick et al. 2013 (arXiv:1311.2524), section 2.3: the network at a tenth of the head's rate",
    checks=(*ALL, *ALL_TRAINS),
)
GRADUAL_UNFREEZING = Recipe(
    name="gradual_unfreezing",
    aliases=("gradual",),
    source="Howard and Ruder 2018 (arXiv:1801.06146), sections 3.2 and 3.3",
    checks=(*ALL, *FROZEN, *ALL_TRAINS, "phases", "state_kept"),
)
LAYERWISE_DECAY = Recipe(
    name="layerwise_decay",
    aliases=("layer_wise_decay", "layerwise_lr_decay"),
    source="Clark et al. 2020 (arXiv:2003.10555), Bao et al. 2021 (arXiv:2106.08254)",
    checks=(*ALL, *ALL_TRAINS),
)
LP_FT = Recipe(
    name="lp_ft",
    aliases=("linear_probing_then_fine_tuning",),
    source="Kumar et al. 2022 (arXiv:2202.10054)",
    checks=(*ALL, *FROZEN, *ALL_TRAINS, "phases"),
)


def _references() -> tuple[Reference, ...]:
    return ()


FAMILY = Family(
    name="transfer",
    architectures=(
        FEATURE_EXTRACTION,
        TWO_LEARNING_RATES,
        GRADUAL_UNFREEZING,
        LAYERWISE_DECAY,
        LP_FT,
        FULL_FINE_TUNING,
    ),
    model="suites.transfer.recipe",
    references=_references,
    own_checks=(*ALL, *FROZEN, *ALL_TRAINS, "phases", "state_kept"),
)
