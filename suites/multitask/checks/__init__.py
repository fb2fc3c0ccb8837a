"""The checks of this suite, by name."""

from __future__ import annotations

from suites.multitask.checks.backbone import check_trunk
from suites.multitask.checks.losses import (
    check_absent_task,
    check_bad_labels,
    check_loss_value,
    check_loss_weights,
    check_masked_tasks,
    check_trunk_gradient,
)
from suites.multitask.checks.network import (
    check_embedding_norm,
    check_linear_heads,
    check_task_gradients,
    check_task_parameters,
    check_task_shapes,
)
from suites.multitask.checks.pcgrad import check_head_gradients, check_projected_gradients
from suites.multitask.checks.state import check_instances, check_task_memory
from suites.multitask.checks.weighting import check_log_variances, check_weighted_sum, check_weighting_learns

__all__ = [
    "check_absent_task",
    "check_bad_labels",
    "check_embedding_norm",
    "check_head_gradients",
    "check_instances",
    "check_linear_heads",
    "check_log_variances",
    "check_loss_value",
    "check_loss_weights",
    "check_masked_tasks",
    "check_projected_gradients",
    "check_task_gradients",
    "check_task_memory",
    "check_task_parameters",
    "check_task_shapes",
    "check_trunk",
    "check_trunk_gradient",
    "check_weighted_sum",
    "check_weighting_learns",
]
