"""The detectors of this suite, torchvision's that are judged by their behaviour, and what each is held to."""

from __future__ import annotations

from harness.subjects.facts import Family, Recipe
from reference.libraries.reference import Reference

BEHAVIOUR = (
    "detector_interface",
    "image_sizes",
    "images_without_boxes",
    "detector_shapes",
    "detector_batch",
    "rescaled_boxes",
    "non_finite_images",
    "degenerate_targets",
    "kept_graph",
    "detector_state",
)
STRICT = ("wrong_targets", "per_class_suppression", "frozen_stages", "frozen_norm", "detector_start")
PARITY = (
    "parity_detections",
    "parity_scores",
    "half_precision_boxes",
    "parity_large_offsets",
    "parity_anchors",
    "parity_odd_sizes",
    "parity_large_boxes",
    "parity_losses",
    "parity_thresholds",
    "parity_sampling",
    "random_sampling",
    "parity_detector_gradients",
    "parity_detector_steps",
)

LIBRARY_PARITY = ("parity_detections", "parity_anchors", "parity_losses", "parity_detector_gradients")
"""Of a user's detector under the name of a torchvision builder, with that builder's."""

DETECTOR_RESNET18 = Recipe(
    name="detector_resnet18",
    source="Ren et al. 2015 (arXiv:1506.01497) over P3 to P7 of Lin et al. 2017 (1612.03144, 1708.02002), ResNet-18",
    facts={"trunk": "detector_resnet18", "width": 256, "hidden": 1024},
    checks=(*BEHAVIOUR, *STRICT, *PARITY),
)
DETECTOR_RESNET50 = Recipe(
    name="detector_resnet50",
    default=False,
    source="as detector_resnet18, over ResNet-50",
    facts={"trunk": "detector_resnet50", "width": 256, "hidden": 1024},
    checks=(*BEHAVIOUR, *STRICT, *PARITY),
)


FEW = {
    "rpn_pre_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_train": 100,
    "rpn_post_nms_top_n_test": 100,
    "rpn_batch_size_per_image": 2000,
    "box_batch_size_per_image": 800,
}
"""Few proposals, as a second stage of four convolutions takes minutes for a thousand; and samples that hold all of them
and all anchors of a small image, so that losses can be compared."""


def _of_library(name: str, source: str, **facts: object) -> Recipe:
    return Recipe(name=name, source=source, own=False, default=False, checks=(*BEHAVIOUR, *LIBRARY_PARITY), facts=facts)


def _references() -> tuple[Reference, ...]:
    """None of the shared kind: the parity checks assemble torchvision's detector from its parts."""
    return ()


FAMILY = Family(
    name="detector",
    architectures=(
        DETECTOR_RESNET18,
        DETECTOR_RESNET50,
        _of_library("fasterrcnn_resnet50_fpn", "Ren et al. 2015 over P2 to P6", settings=FEW),
        _of_library("fasterrcnn_resnet50_fpn_v2", "Li et al. 2021 (arXiv:2111.11429)", settings=FEW),
        # It counts classes from 0, without background, and keeps what clipping leaves empty.
        _of_library("retinanet_resnet50_fpn", "Lin et al. 2017b (arXiv:1708.02002)", first_label=0, keeps_empty=True),
    ),
    model="suites.detector.model",
    references=_references,
    own_checks=(*BEHAVIOUR, *STRICT, *PARITY),
)
