"""How well the anchors of each pyramid level fit the boxes of a data set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from suites.detector.config import DetectorConfig
from suites.detector.data.annotations import Annotations
from suites.detector.model.anchors import RATIOS

MOST_BOXES = 2_000
"""Of a larger data set every n-th box is looked at."""


def anchor_coverage(annotations: Annotations, network: DetectorConfig) -> list[NDArray[np.float64]]:
    """For each level, from P3, the overlap (IoU) of every box that fits one of its anchors best with that anchor.

    Box and anchor share their centre, so that it is what the sizes and shapes allow, whatever the stride: (boxes,)
    each. Boxes are those that the detector learns from, crowds left out, at the size that images are resized to.
    """
    kept = np.flatnonzero(~annotations.crowd)
    kept = kept[:: max(1, -(-len(kept) // MOST_BOXES))]
    image = np.searchsorted(annotations.starts, kept, side="right") - 1
    sizes = annotations.sizes[image].astype(np.float64)
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    scale = np.minimum(network.side / short, network.longest / long)
    corners = annotations.boxes[kept].astype(np.float64)
    width, height = ((corners[:, 2:] - corners[:, :2]) * scale[:, None]).T
    overlaps = np.zeros((len(kept), len(network.anchors)))
    for level, size in enumerate(network.anchors):
        for ratio in RATIOS:
            tall, wide = size * ratio**0.5, size / ratio**0.5
            shared = np.minimum(width, wide) * np.minimum(height, tall)
            overlaps[:, level] = np.maximum(overlaps[:, level], shared / (width * height + wide * tall - shared))
    best = overlaps.argmax(axis=1)
    return [overlaps[best == level, level] for level in range(len(network.anchors))]
