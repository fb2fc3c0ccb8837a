"""Detectors whose pyramid, anchors, matching, coding or losses are not what they should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import with_settings
from harness.mutants.probe import Evidence
from harness.mutants.variant import Mutant, Surgery, become, mutant
from suites.detector.model.anchors import AnchorGenerator
from suites.detector.model.box_coder import BoxCoder
from suites.detector.model.fpn import FeaturePyramid
from suites.detector.model.matcher import Matcher, Sampler
from suites.detector.model.roi_heads import BoxHeads
from suites.detector.model.rpn import RegionProposals
from suites.detector.mutants.probe import DETECTOR, detections, images, loss_gradients, losses, statistics


def _faulty(name: str, bug: str, change: Callable[[Any], object], *, check: str, evidence: Evidence) -> Mutant:
    """One change made in place."""

    def surgery(model: Any) -> nn.Module:
        change(model)
        return model

    surgery.__name__ = name
    made: Callable[[Surgery], Mutant] = mutant(
        DETECTOR, bug, check=check, category="training" if evidence is losses else "forward", evidence=evidence
    )
    return made(surgery)


def _set(path: str, value: object) -> Callable[[Any], object]:
    """Gives the attribute at ``path`` another value."""
    owner, _, last = path.rpartition(".")
    return lambda model: with_settings(model, owner, **{last: value})


class BilinearPyramid(FeaturePyramid):
    """Upsamples smoothly."""

    def upsampled(self, top: Tensor, lateral: Tensor) -> Tensor:
        return F.interpolate(top, size=lateral.shape[-2:], mode="bilinear", align_corners=False)


class CutTopDown(FeaturePyramid):
    """Passes nothing down."""

    def upsampled(self, top: Tensor, lateral: Tensor) -> Tensor:
        return torch.zeros_like(lateral)


class DetachedTopDown(FeaturePyramid):
    """Passes values down, and no gradient up."""

    def upsampled(self, top: Tensor, lateral: Tensor) -> Tensor:
        return super().upsampled(top, lateral).detach()


class SmoothedRecursion(FeaturePyramid):
    """Passes the smoothed level down."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = [self.smoothings[-1](self.laterals[-1](features[-1]))]
        for index in range(len(features) - 2, -1, -1):
            lateral = self.laterals[index](features[index])
            levels.insert(0, self.smoothings[index](lateral + self.upsampled(levels[0], lateral)))
        levels.append(self.p6(levels[-1]))
        return [*levels, self.p7(F.relu(levels[-1]))]


class ReluBeforeP6(FeaturePyramid):
    """A ReLU too many."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = super().forward(features)[:3]
        p6 = self.p6(F.relu(levels[-1]))
        return [*levels, p6, self.p7(F.relu(p6))]


class NoReluBeforeP7(FeaturePyramid):
    """A ReLU too few."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = super().forward(features)[:4]
        return [*levels, self.p7(levels[-1])]


class P6FromP4(FeaturePyramid):
    """P6 from the level before the last."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = super().forward(features)[:3]
        p6 = self.p6(F.max_pool2d(levels[1], 2, ceil_mode=True))
        return [*levels, p6, self.p7(F.relu(p6))]


class HalfStride(AnchorGenerator):
    """Anchors around the middle of the cell."""

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [a + s / 2 for a, s in zip(super().forward(levels), self.strides, strict=True)]


class ColumnFirst(AnchorGenerator):
    """Columns before rows."""

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [
            a.unflatten(0, (v.shape[2], v.shape[3], -1)).transpose(0, 1).reshape(-1, 4)
            for a, v in zip(super().forward(levels), levels, strict=True)
        ]


class SwappedXY(BoxCoder):
    """x and y exchanged in decoding."""

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        return super().decode(offsets[..., [1, 0, 3, 2]], anchors)


class ReadAsCorners(BoxCoder):
    """Annotated boxes read as x y width height."""

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        return super().encode(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1), anchors)


class NoPositives(Sampler):
    """Half as many positives."""

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        positive, background = super().__call__(labels)
        return positive[::2], background


class IgnoredAsNegative(Sampler):
    """What lies between the thresholds is background."""

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        return super().__call__(labels.clamp(min=0))


class AttachedProposals(RegionProposals):
    """Proposals with their gradient."""

    proposals = RegionProposals.proposals.__wrapped__  # type: ignore[attr-defined]


def _attach(model: Any) -> None:
    """Lets gradient through the proposals, where they are made and where they are chosen."""
    become(model.rpn, AttachedProposals)
    heads = model.roi_heads
    heads.sampled = lambda *given: BoxHeads.sampled.__wrapped__(heads, *given)  # type: ignore[attr-defined]


def _pyramid(kind: type[FeaturePyramid]) -> Callable[[Any], object]:
    return lambda model: become(model.fpn, kind)


FPN = (
    (BilinearPyramid, "bilinear_upsampling", "The pyramid upsamples bilinearly", "parity_detections"),
    (CutTopDown, "no_top_down_path", "The top-down path is left out", "parity_detections"),
    (SmoothedRecursion, "smoothing_in_the_recursion", "What is passed down is smoothed", "parity_detections"),
    (ReluBeforeP6, "relu_before_p6", "A ReLU before P6", "parity_losses"),
    (NoReluBeforeP7, "no_relu_before_p7", "No ReLU before P7", "parity_losses"),
    (P6FromP4, "p6_from_p4", "P6 is made from P4", "parity_losses"),
)
for _kind, _name, _bug, _check in FPN:
    globals()[_name] = _faulty(
        _name,
        _bug,
        _pyramid(_kind),
        check=_check,
        evidence=losses if _check == "parity_losses" else detections(),
    )

top_down_detached = _faulty(
    "top_down_detached",
    "No gradient through the top-down path",
    lambda m: become(m.fpn, DetachedTopDown),
    check="parity_detector_gradients",
    evidence=loss_gradients,
)
proposals_with_gradient = _faulty(
    "proposals_with_gradient",
    "Proposals carry the second stage's gradient",
    _attach,
    check="parity_detector_gradients",
    evidence=loss_gradients,
)


def _wide(change: Callable[[Any], object], name: str, bug: str) -> Mutant:
    evidence = detections(200, 128, lambda: images(100, 180))
    return _faulty(name, bug, change, check="parity_anchors", evidence=evidence)


half_stride = _wide(lambda m: become(m.rpn.anchors, HalfStride), "half_stride", "Anchors are moved by half a stride")
columns_first = _wide(lambda m: become(m.rpn.anchors, ColumnFirst), "columns_first", "Anchors go column by column")
inverted_ratios = _wide(
    _set("rpn.anchors.ratios", (2.0, 1.0, 0.5)), "inverted_ratios", "Aspect ratios are width / height"
)
level_order = _wide(
    _set("rpn.anchors.strides", (8, 16, 64, 32, 128)), "level_order", "Strides of P5 and P6 are exchanged"
)
anchor_sizes = _wide(
    _set("rpn.anchors.sizes", ((16,), (32,), (64,), (128,), (256,))), "anchor_sizes", "Anchors of half the size"
)

LOSSES: tuple[tuple[str, str, str, object], ...] = (
    ("anchors_not_forced", "No forced matches", "rpn.matcher", Matcher(foreground=0.7, background=0.3)),
    (
        "rpn_low_foreground",
        "Anchors are positive from 0.5",
        "rpn.matcher",
        Matcher(foreground=0.5, background=0.3, force=True),
    ),
    ("rpn_weighted_offsets", "The first stage's offsets are weighted", "rpn.coder", BoxCoder((10.0, 10.0, 5.0, 5.0))),
    (
        "targets_as_xywh",
        "Annotated boxes are read as x y width height",
        "roi_heads.coder",
        ReadAsCorners((10.0, 10.0, 5.0, 5.0)),
    ),
    ("few_positives", "Half of the positives are left out", "rpn.sampler", NoPositives(count=256, fraction=0.5)),
    (
        "ignored_as_negatives",
        "Ignored anchors count as background",
        "rpn.sampler",
        IgnoredAsNegative(count=256, fraction=0.5),
    ),
    ("few_proposals", "The second stage looks at 16 proposals", "roi_heads.sampler", Sampler(count=16, fraction=0.25)),
)
for _name, _bug, _path, _value in LOSSES:
    globals()[_name] = _faulty(_name, _bug, _set(_path, _value), check="parity_losses", evidence=losses)

EVAL: tuple[tuple[str, str, str, object], ...] = (
    ("unweighted_offsets", "The second stage's offsets are not weighted", "roi_heads.coder", BoxCoder((1.0,) * 4)),
    ("swapped_offsets", "x and y are exchanged in decoding", "roi_heads.coder", SwappedXY((10.0, 10.0, 5.0, 5.0))),
    ("suppression_loose", "Detections overlap up to 0.7", "roi_heads.overlap", 0.7),
    ("proposal_suppression_tight", "Proposals are suppressed from 0.5", "rpn.overlap", 0.5),
    ("score_threshold", "Only scores above 0.2 are kept", "roi_heads.score", 0.2),
    ("no_normalisation", "Images are not normalised by their spread", "transform.std", (1.0, 1.0, 1.0)),
)
for _name, _bug, _path, _value in EVAL:
    globals()[_name] = _faulty(_name, _bug, _set(_path, _value), check="parity_detections", evidence=detections())


norm_eps = _faulty(
    "norm_eps",
    "BatchNorm's eps is 1e-3",
    lambda model: with_settings(model, nn.BatchNorm2d, eps=1e-3),
    check="parity_detections",
    evidence=detections(),
)
norm_momentum = _faulty(
    "norm_momentum",
    "BatchNorm's momentum is 0.01",
    lambda model: with_settings(model, nn.BatchNorm2d, momentum=0.01),
    check="parity_detector_steps",
    evidence=statistics,
)
