"""Faster R-CNN over a ResNet with a pyramid P3 to P7 (Ren et al. 2015; Lin et al. 2017), called as torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from suites.detector.model.anchors import AnchorGenerator
from suites.detector.model.backbone import Backbone, norm_of
from suites.detector.model.fpn import FeaturePyramid
from suites.detector.model.roi_heads import BoxHeads
from suites.detector.model.rpn import RegionProposals
from suites.detector.model.transform import Batcher, rescaled
from suites.detector.model.validation import check_images, check_targets


class Detector(nn.Module):
    """Images and targets in, a dict of losses out in train mode; images in, a list of detections out in eval mode.

    Images are (3, height, width) with values from 0 to 1 and may differ in size. A target has ``boxes`` (n, 4) as
    x1 y1 x2 y2 in pixels of its image and ``labels`` (n,) int64 from 1; n may be 0. A detection has these two, in
    coordinates of the image as it was given, and ``scores`` (n,), best first.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 256,
        hidden: int = 1024,
        min_size: int = 800,
        max_size: int = 1333,
        size_divisible: int = 32,
        anchor_sizes: Sequence[Sequence[float]] = ((32,), (64,), (128,), (256,), (512,)),
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: background counts, so at least 2")
        self.num_classes = num_classes
        self.transform = Batcher(min_size, max_size, size_divisible)
        self.backbone = backbone
        self.fpn = FeaturePyramid(backbone.widths, width)
        self.rpn = RegionProposals(width, AnchorGenerator(anchor_sizes))
        self.roi_heads = BoxHeads(width, num_classes, hidden=hidden)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses (train mode) or detections (eval mode). Raises ValueError for images or targets that make no sense."""
        check_images(images)
        given = [(image.shape[1], image.shape[2]) for image in images]
        if self.training:
            check_targets(targets, given, self.num_classes)
        batch, sizes = self.transform(images)
        scaled = None
        if self.training and targets is not None:
            scaled = [
                {**t, "boxes": rescaled(t["boxes"].to(batch.dtype), g, s)}
                for t, g, s in zip(targets, given, sizes, strict=True)
            ]
        levels = self.fpn(self.backbone(batch))
        proposals, proposal_losses = self.rpn(levels, sizes, scaled)
        detections, losses = self.roi_heads(levels, proposals, sizes, scaled)
        if self.training:
            return {**losses, **proposal_losses}
        return [
            {**found, "boxes": rescaled(found["boxes"], size, to)}
            for found, size, to in zip(detections, sizes, given, strict=True)
        ]


def detector_resnet18(num_classes: int = 91, *, norm: str = "batch", trainable: int = 5, **settings: Any) -> Detector:
    """Over ResNet-18; ``settings`` are the keywords of `Detector`."""
    return Detector(Backbone(resnet18(norm_layer=norm_of(norm)), trainable), num_classes, **settings)


def detector_resnet50(num_classes: int = 91, *, norm: str = "batch", trainable: int = 5, **settings: Any) -> Detector:
    """Over ResNet-50; ``settings`` are the keywords of `Detector`."""
    return Detector(Backbone(resnet50(norm_layer=norm_of(norm)), trainable), num_classes, **settings)


def load_backbone(model: Detector, state: dict[str, Tensor]) -> None:
    """Take a classification ResNet's weights by torchvision's names. Raises ValueError where they are another's."""
    names = {"stem.0": "conv1", "stem.1": "bn1", **{f"stages.{i}": f"layer{i + 1}" for i in range(4)}}
    own = model.backbone.state_dict()
    taken: dict[str, Tensor] = {}
    for name, tensor in own.items():
        part = next(p for p in names if name.startswith(f"{p}."))
        given = state.get(names[part] + name.removeprefix(part))
        if given is None and name.endswith("num_batches_tracked"):
            given = torch.zeros_like(tensor)
        if given is None or given.shape != tensor.shape:
            has = "nothing" if given is None else str(tuple(given.shape))
            raise ValueError(f"weights of another backbone: {name} needs {tuple(tensor.shape)}, the file has {has}")
        taken[name] = given
    model.backbone.load_state_dict(taken)
