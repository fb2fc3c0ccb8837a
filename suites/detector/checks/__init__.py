"""The checks of this suite, by name."""

from __future__ import annotations

from suites.detector.checks.behaviour import (
    check_degenerate_targets,
    check_detector_batch,
    check_detector_interface,
    check_image_sizes,
    check_images_without_boxes,
    check_non_finite_images,
    check_per_class_suppression,
    check_rescaled_boxes,
    check_wrong_targets,
)
from suites.detector.checks.freezing import check_frozen_norm, check_frozen_stages
from suites.detector.checks.initialisation import check_detector_start
from suites.detector.checks.parity import (
    check_half_precision_boxes,
    check_parity_anchors,
    check_parity_detections,
    check_parity_detector_gradients,
    check_parity_detector_steps,
    check_parity_large_boxes,
    check_parity_large_offsets,
    check_parity_losses,
    check_parity_odd_sizes,
    check_parity_scores,
    check_parity_thresholds,
)
from suites.detector.checks.sampling import check_parity_sampling, check_random_sampling
from suites.detector.checks.shapes import check_detector_shapes
from suites.detector.checks.state import check_detector_state, check_kept_graph

__all__ = [
    "check_degenerate_targets",
    "check_detector_batch",
    "check_detector_interface",
    "check_detector_shapes",
    "check_detector_start",
    "check_detector_state",
    "check_frozen_norm",
    "check_frozen_stages",
    "check_half_precision_boxes",
    "check_image_sizes",
    "check_images_without_boxes",
    "check_kept_graph",
    "check_non_finite_images",
    "check_parity_anchors",
    "check_parity_detections",
    "check_parity_detector_gradients",
    "check_parity_detector_steps",
    "check_parity_large_boxes",
    "check_parity_large_offsets",
    "check_parity_losses",
    "check_parity_odd_sizes",
    "check_parity_sampling",
    "check_parity_scores",
    "check_parity_thresholds",
    "check_per_class_suppression",
    "check_random_sampling",
    "check_rescaled_boxes",
    "check_wrong_targets",
]
