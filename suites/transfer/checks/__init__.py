"""The checks of this suite, by name."""

from __future__ import annotations

from suites.transfer.checks.freezing import check_frozen, check_frozen_features, check_phases
from suites.transfer.checks.given_network import check_starts_from_given, check_unknown_head
from suites.transfer.checks.learning_rates import check_decay_groups, check_groups, check_learns, check_rates
from suites.transfer.checks.scheduler import check_scheduler
from suites.transfer.checks.train_eval import check_dropout, check_evaluates
from suites.transfer.checks.trajectory import check_resume, check_state_kept, check_trajectory

__all__ = [
    "check_decay_groups",
    "check_dropout",
    "check_evaluates",
    "check_frozen",
    "check_frozen_features",
    "check_groups",
    "check_learns",
    "check_phases",
    "check_rates",
    "check_resume",
    "check_scheduler",
    "check_starts_from_given",
    "check_state_kept",
    "check_trajectory",
    "check_unknown_head",
]
