"""The checks of this suite, by name."""

from __future__ import annotations

from suites.detector.behaviour import (
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
from suites.detector.parity import (
    check_parity_anchors,
    check_parity_detections,
    check_parity_detector_gradients,
    check_parity_detector_steps,
    check_parity_losses,
)

__all__ = [
    "check_degenerate_targets",
    "check_detector_batch",
    "check_detector_interface",
    "check_image_sizes",
    "check_images_without_boxes",
    "check_non_finite_images",
    "check_parity_anchors",
    "check_parity_detections",
    "check_parity_detector_gradients",
    "check_parity_detector_steps",
    "check_parity_losses",
    "check_per_class_suppression",
    "check_rescaled_boxes",
    "check_wrong_targets",
]
