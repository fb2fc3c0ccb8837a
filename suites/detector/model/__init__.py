"""Faster R-CNN with a feature pyramid: one file a part, to copy."""

from suites.detector.model.faster_rcnn import Detector, detector_resnet18, detector_resnet50, load_backbone

__all__ = ["Detector", "detector_resnet18", "detector_resnet50", "load_backbone"]
