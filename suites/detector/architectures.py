"""The detectors of this suite, torchvision's that are judged by their behaviour, and what each is held to."""

from __future__ import annotations

from harness.architecture import Family, Recipe
from reference.library import Reference

BEHAVIOUR = (
    "detector_interface",
    "image_sizes",
    "images_without_boxes",
    "detector_batch",
    "rescaled_boxes",
    "non_finite_images",
    "degenerate_targets",
)
STRICT = ("wrong_targets", "per_class_suppression")
PARITY = ("parity_detections", "parity_anchors", "parity_losses", "parity_detector_gradients", "parity_detector_steps")

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


def _of_library(name: str, source: str) -> Recipe:
    return Recipe(name=name, source=source, own=False, default=False, checks=BEHAVIOUR)


def _references() -> tuple[Reference, ...]:
    """None of the shared kind: the parity checks assemble torchvision's detector from its parts."""
    return ()


FAMILY = Family(
    name="detector",
    architectures=(
        DETECTOR_RESNET18,
        DETECTOR_RESNET50,
        _of_library("fasterrcnn_resnet50_fpn", "Ren et al. 2015 over P2 to P6"),
        _of_library("fasterrcnn_resnet50_fpn_v2", "Li et al. 2021 (arXiv:2111.11429)"),
        _of_library("retinanet_resnet50_fpn", "Lin et al. 2017b (arXiv:1708.02002)"),
    ),
    model="suites.detector.model",
    references=_references,
    properties=(*BEHAVIOUR, *STRICT, *PARITY),
)
