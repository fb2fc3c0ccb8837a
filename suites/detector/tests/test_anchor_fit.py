"""What the report is told of anchors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def test_boxes_go_to_the_level_whose_anchors_fit() -> None:
    from suites.detector.anchor_fit import anchor_coverage
    from suites.detector.config import DetectorConfig
    from suites.detector.data.annotations import Annotations, Category

    # On an image of 100 px, resized to 200: 8x8 becomes 16x16, a level's own square; 20x20 becomes 40x40.
    boxes = np.array([[0, 0, 8, 8], [10, 10, 30, 30], [0, 0, 50, 50]], dtype=np.float32)
    annotations = Annotations(
        name="made",
        files=(Path("0.jpg"),),
        ids=np.array([1]),
        sizes=np.array([[100, 100]]),
        categories=(Category(id=1, name="thing"),),
        starts=np.array([0, 3]),
        boxes=boxes,
        labels=np.ones(3, dtype=np.int64),
        crowd=np.array([False, False, True]),
        area=(boxes[:, 2] - boxes[:, 0]) ** 2,
    )
    network = DetectorConfig(
        arch="detector_resnet18", implementation="ours", num_classes=2, side=200, anchors=(8, 16, 32, 64, 128)
    )
    levels = anchor_coverage(annotations, network)
    assert [len(level) for level in levels] == [0, 1, 1, 0, 0]  # the crowd is not learnt from
    assert levels[1][0] == pytest.approx(1.0)
    assert levels[2][0] == pytest.approx(32**2 / 40**2)
