"""Detectors that are wrong for some sizes, read proposals from the wrong place, or decode them wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from harness.mutants.operators import forward_of, method_of
from harness.mutants.probe import Pair
from harness.mutants.variant import become, mutant
from suites.detector.model import roi_heads as own_heads
from suites.detector.model.anchors import STRIDES, AnchorGenerator
from suites.detector.model.box_coder import LARGEST, BoxCoder
from suites.detector.model.faster_rcnn import Detector
from suites.detector.model.fpn import FeaturePyramid
from suites.detector.model.roi_heads import BoxHeads
from suites.detector.model.transform import Batcher
from suites.detector.mutants import probe as evidence
from suites.detector.mutants.probe import DETECTOR, PADDED, both, detections, images, pair_of

Targets = Sequence[dict[str, Tensor]]


def not_padded(pair: Pair) -> float:
    """Of detections on an image of 58 x 117 as it is; one where it is refused."""
    try:
        return detections(117, 1, lambda: images(58, 117))(pair)
    except RuntimeError:
        return 1.0


@both
def large_boxes(model: Any) -> Tensor:
    """What is read for boxes of 100, 300 and 480 px."""
    boxes = torch.tensor([[4.0, 6.0, 4.0 + side, 6.0 + side] for side in (100, 300, 480)], dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    levels = [torch.randn(1, 16, 512 // s, 512 // s, generator=generator, dtype=torch.float64) for s in STRIDES[:3]]
    read: Tensor = model.roi_heads.pooled(levels, [boxes])
    return read


@mutant(
    DETECTOR,
    "Each level is doubled, whatever the next one's size: odd sizes don't add up",
    check="parity_odd_sizes",
    category="size",
    evidence=not_padded,
)
@method_of("upsampled", "fpn")
def scale_factor_two(self: Any, top: Tensor, lateral: Tensor) -> Tensor:
    return F.interpolate(top, scale_factor=2, mode="nearest")


@mutant(
    DETECTOR,
    "Strides are the image's size over the level's, which is the level's own only for some sizes",
    check="parity_odd_sizes",
    category="size",
    evidence=not_padded,
)
@forward_of("rpn.anchors")
def strides_from_the_image(self: Any, levels: Sequence[Tensor]) -> list[Tensor]:
    """Columns as far apart as the image and the level say."""
    first = AnchorGenerator.forward(self, levels)
    found = []
    for anchors, level, stride in zip(first, levels, self.strides, strict=True):
        side = levels[0].shape[-1] * self.strides[0]
        actual = side // level.shape[-1]
        cells = torch.arange(level.shape[-1], dtype=level.dtype).repeat(level.shape[-2])
        shift = (cells * (actual - stride)).repeat_interleave(self.per_cell)
        found.append(anchors + torch.stack([shift, shift * 0, shift, shift * 0], dim=1))
    return found


@mutant(DETECTOR, "Anchors are not rounded to whole pixels", check="parity_detections", evidence=detections())
@method_of("at_origin", "rpn.anchors")
def anchors_not_rounded(self: Any, sizes: Sequence[float], like: Tensor) -> Tensor:
    size, root = like.new_tensor(sizes), like.new_tensor(self.ratios).sqrt()
    widths, heights = (size / root[:, None]).flatten(), (root[:, None] * size).flatten()
    return torch.stack([-widths, -heights, widths, heights], dim=1) / 2


class Pooling(BoxHeads):
    """RoIAlign with other settings."""

    aligned, sampling, shift = False, 2, 0

    def pooled(self, levels: Sequence[Tensor], proposals: Sequence[Tensor]) -> Tensor:
        boxes = torch.cat(list(proposals))
        image = torch.cat([boxes.new_full((len(p), 1), number) for number, p in enumerate(proposals)])
        which = (own_heads.level_of(boxes, len(levels)) + self.shift).clamp(0, len(levels) - 1)
        parts, places = [], []
        for number, (level, stride) in enumerate(zip(levels, STRIDES, strict=False)):
            place = torch.where(which == number)[0]
            rois = torch.cat([image, boxes], dim=1)[place]
            parts.append(roi_align(level, rois, 7, 1 / stride, sampling_ratio=self.sampling, aligned=self.aligned))
            places.append(place)
        return torch.cat(parts)[torch.cat(places).argsort()]


def _pooling(model: Any, **settings: object) -> nn.Module:
    become(model.roi_heads, Pooling)
    for name, value in settings.items():
        setattr(model.roi_heads, name, value)
    return model


@mutant(DETECTOR, "RoIAlign is moved by half a pixel", check="parity_detections", evidence=detections())
def aligned_pooling(model: Any) -> nn.Module:
    return _pooling(model, aligned=True)


@mutant(DETECTOR, "RoIAlign takes one sample of each cell", check="parity_detections", evidence=detections())
def one_sample_per_cell(model: Any) -> nn.Module:
    return _pooling(model, sampling=1)


@mutant(
    DETECTOR,
    "Proposals are read from one level too coarse",
    check="parity_large_boxes",
    category="size",
    evidence=large_boxes,
)
def coarser_level(model: Any) -> nn.Module:
    return _pooling(model, shift=1)


@mutant(
    DETECTOR,
    "All proposals are read from P3, however large",
    check="parity_large_boxes",
    category="size",
    evidence=large_boxes,
)
@method_of("pooled", "roi_heads", Pooling)
def finest_level_only(self: Any, levels: Sequence[Tensor], proposals: Sequence[Tensor]) -> Tensor:
    return Pooling.pooled(self, levels[:1], proposals)


class Uncut(BoxCoder):
    """Lets wide boxes be as wide as asked for."""

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        limit = LARGEST * self.weights[2]
        cut = super().decode(offsets, anchors)
        wide = (offsets[..., 2] > limit)[..., None]
        middle = (cut[..., :2] + cut[..., 2:]) / 2
        return torch.where(wide, torch.cat([middle - 1e4, middle + 1e4], dim=-1), cut)


@both
def with_large_offsets(model: Any) -> Tensor:
    """The box decoded from an offset of ten."""
    anchors = torch.tensor([[10.0, 10.0, 20.0, 20.0]], dtype=torch.float64)
    decoded: Tensor = model.roi_heads.coder.decode(torch.tensor([[0.0, 0.0, 50.0, 1.0]]).double(), anchors)
    return decoded


@mutant(
    DETECTOR,
    "The logarithm of a box's width is not cut",
    check="parity_large_offsets",
    evidence=with_large_offsets,
)
def offsets_not_cut(model: Any) -> nn.Module:
    model.roi_heads.coder = Uncut((10.0, 10.0, 5.0, 5.0))
    return model


@mutant(DETECTOR, "Images are resized with their corners aligned", check="parity_anchors", evidence=PADDED)
@method_of("_resized", "transform")
def resized_by_corners(self: Any, image: Tensor) -> Tensor:
    plain = Batcher._resized(self, image)
    mean, std = (image.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
    given = ((image - mean) / std)[None]
    return F.interpolate(given, size=plain.shape[1:], mode="bilinear", align_corners=True)[0]


class HalfCoder(BoxCoder):
    """Decodes in the offsets' type."""

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        return super().decode(offsets, anchors).to(offsets.dtype).to(anchors.dtype)


@both
def half_boxes(model: Any) -> Tensor:
    """The box decoded from bfloat16 offsets."""
    offsets = torch.tensor([[0.3, 0.1, 0.2, 0.1]]).bfloat16()
    decoded: Tensor = model.roi_heads.coder.decode(offsets, torch.tensor([[1000.0, 10.0, 1021.0, 37.0]]))
    return decoded


@mutant(
    DETECTOR,
    "Boxes are decoded in half precision",
    check="half_precision_boxes",
    category="precision",
    evidence=half_boxes,
)
def decoded_in_half_precision(model: Any) -> nn.Module:
    model.roi_heads.coder = HalfCoder((10.0, 10.0, 5.0, 5.0))
    return model


@mutant(DETECTOR, "Images of NaN give a detection of NaN", check="non_finite_images", evidence=evidence.of_nan)
@method_of("detect", "roi_heads")
def nan_is_detected(
    self: Any, logits: Tensor, offsets: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    found = BoxHeads.detect(self, logits.nan_to_num(), offsets.nan_to_num(), proposals, sizes)
    if bool(found and all(len(f["boxes"]) == 0 for f in found)):
        nothing = logits.new_full((1, 4), float("nan"))
        return [{"boxes": nothing, "labels": torch.ones(1, dtype=torch.int64), "scores": nothing[0, :1]}] * len(found)
    return found


@mutant(
    DETECTOR,
    "An image's detections depend on the others of its batch",
    check="detector_batch",
    category="batch",
    evidence=detections(),
)
@forward_of()
def batch_leaks(self: Any, images: Sequence[Tensor], targets: Targets | None = None) -> Any:
    if self.training:
        return Detector.forward(self, images, targets)
    return Detector.forward(self, [image + 0.1 * images[0].mean() * (len(images) > 1) for image in images])


@mutant(DETECTOR, "Wide images are refused", check="image_sizes", category="size", evidence=lambda pair: _refused(pair))
@forward_of("fpn")
def wide_images_refused(self: Any, features: Sequence[Tensor]) -> list[Tensor]:
    if features[0].shape[-1] * 8 > 300:
        raise RuntimeError("sizes of tensors must match")
    return FeaturePyramid.forward(self, features)


def _refused(pair: Pair) -> float:
    correct, faulty = pair_of(pair, 512)
    correct.eval()(images(96, 500)[:1])
    try:
        faulty.eval()(images(96, 500)[:1])
    except RuntimeError:
        return 1.0
    return 0.0
