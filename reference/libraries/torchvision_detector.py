"""torchvision's Faster R-CNN over the pyramid P3 to P7, assembled as the reference of the detector suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

TRUNKS = {"detector_resnet18": resnet18, "detector_resnet50": resnet50}
LIBRARY = "torchvision.models.detection"
STRIDES = (8, 16, 32, 64, 128)


class LevelAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no annotations
    """torchvision's anchors at the nominal strides of the levels.

    `AnchorGenerator` divides the padded image's size by the level's, which gives the stride only where it divides
    evenly.
    """

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """torchvision's, with `STRIDES` in place of the derived ``strides``."""
        own = [[torch.full_like(side, stride) for side in pair] for pair, stride in zip(strides, STRIDES, strict=True)]
        found: list[Tensor] = super().grid_anchors(grid_sizes, own)
        return found


def assembled(
    name: str,
    num_classes: int,
    *,
    width: int = 256,
    hidden: int = 1024,
    min_size: int = 800,
    max_size: int = 1333,
    size_divisible: int = 32,
    anchor_sizes: Sequence[Sequence[float]] = ((32,), (64,), (128,), (256,), (512,)),
) -> nn.Module:
    """`FasterRCNN` with the same parts as the suite's detector of that name, with BatchNorm that trains."""
    trunk: Any = TRUNKS[name]()
    widths = [stage[-1].conv1.in_channels for stage in (trunk.layer2, trunk.layer3, trunk.layer4)]
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    pyramid = BackboneWithFPN(trunk, layers, widths, width, extra_blocks=LastLevelP6P7(width, width))
    model: nn.Module = FasterRCNN(
        pyramid,
        num_classes=None,
        rpn_anchor_generator=LevelAnchors(
            tuple(tuple(s) for s in anchor_sizes), ((0.5, 1.0, 2.0),) * len(anchor_sizes)
        ),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2),
        box_head=TwoMLPHead(width * 49, hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes),
        min_size=min_size,
        max_size=max_size,
        size_divisible=size_divisible,
    )
    return model


PARTS = {
    "backbone.stem.0": "backbone.body.conv1",
    "backbone.stem.1": "backbone.body.bn1",
    **{f"backbone.stages.{i}": f"backbone.body.layer{i + 1}" for i in range(4)},
    **{f"fpn.laterals.{i}": f"backbone.fpn.inner_blocks.{i}.0" for i in range(3)},
    **{f"fpn.smoothings.{i}": f"backbone.fpn.layer_blocks.{i}.0" for i in range(3)},
    "fpn.p6": "backbone.fpn.extra_blocks.p6",
    "fpn.p7": "backbone.fpn.extra_blocks.p7",
    "rpn.head.conv": "rpn.head.conv.0.0",
    "rpn.head.objectness": "rpn.head.cls_logits",
    "rpn.head.offsets": "rpn.head.bbox_pred",
    "roi_heads.fc1": "roi_heads.box_head.fc6",
    "roi_heads.fc2": "roi_heads.box_head.fc7",
    "roi_heads.classes": "roi_heads.box_predictor.cls_score",
    "roi_heads.offsets": "roi_heads.box_predictor.bbox_pred",
}
"""Modules of the suite's detector, and the corresponding modules of `assembled`."""


def state_as_assembled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The own detector's ``state`` under the names of `assembled`. Raises KeyError for a name of another network."""
    renamed = {}
    for name, tensor in state.items():
        part = next((p for p in PARTS if name.startswith(f"{p}.")), None)
        if part is None:
            raise KeyError(name)
        renamed[PARTS[part] + name.removeprefix(part)] = tensor
    return renamed


def torchvision_builder(name: str, num_classes: int, **settings: Any) -> nn.Module:
    """The detector that `torchvision.models.detection` builds under ``name``, without downloaded weights."""
    from torchvision.models import detection

    made: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes, **settings)
    return made
