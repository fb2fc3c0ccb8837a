"""Detectors with a fault in their state: loading, starting values, generators, what is kept."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.operators import clearing_gradients, forward_of, loading_leniently
from harness.mutants.probe import Pair
from harness.mutants.state_probe import accepts, clears, reseeds
from harness.mutants.variant import become, mutant, of_type
from suites.detector.model.anchors import AnchorGenerator
from suites.detector.model.box_coder import BoxCoder
from suites.detector.model.faster_rcnn import Detector
from suites.detector.model.matcher import Sampler
from suites.detector.mutants import probe as evidence
from suites.detector.mutants.probe import DETECTOR, both
from suites.detector.mutants.sampling import repeats


class Reseeded(Sampler):
    """For results that can be repeated."""

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return super().__call__(labels)


@mutant(
    DETECTOR,
    "A seed is set before proposals are drawn: the same draw in every step",
    check="random_sampling",
    category="state",
    evidence=both(repeats("roi_heads")),
)
def seeded_sampler(model: Any) -> nn.Module:
    model.roi_heads.sampler = Reseeded(count=512, fraction=0.25)
    return model


class Remembered(AnchorGenerator):
    """Asks only how many cells there are."""

    kept: Any

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        counts = tuple(level.shape[-1] * level.shape[-2] for level in levels)
        if counts not in self.kept:
            self.kept[counts] = super().forward(levels)
        return list(self.kept[counts])


def _high_after_wide(model: Any) -> Tensor:
    sides = ((4, 8), (2, 4), (1, 2), (1, 1), (1, 1))
    model.rpn.anchors([torch.zeros(1, 1, *side).double() for side in sides])
    return torch.cat(model.rpn.anchors([torch.zeros(1, 1, *side[::-1]).double() for side in sides]))


@mutant(
    DETECTOR,
    "Anchors are kept by the number of a level's cells: a high image after a wide one gets that one's",
    check="parity_detections",
    category="state",
    evidence=both(_high_after_wide),
)
def anchors_by_count(model: Any) -> nn.Module:
    become(model.rpn.anchors, Remembered)
    model.rpn.anchors.kept = {}
    return model


class Rounded(BoxCoder):
    """Decodes to the offsets' own dtype."""

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        return super().decode(offsets, anchors).to(offsets.dtype)


def _decoded(model: Any) -> Tensor:
    offsets = torch.full((1, 4), 0.3, dtype=torch.bfloat16)
    found: Tensor = model.rpn.coder.decode(offsets, torch.tensor([[301.0, 201.0, 433.0, 277.0]]))
    return found


@mutant(
    DETECTOR,
    "Under autocast proposals are decoded in bfloat16",
    check="half_precision_boxes",
    category="precision",
    evidence=both(_decoded),
)
def half_proposals(model: Any) -> nn.Module:
    model.rpn.coder = Rounded((1.0,) * 4)
    return model


def _start(pair: Pair, measure: Callable[[Any], float]) -> float:
    torch.manual_seed(0)
    return abs(measure(pair.faulty(evidence.CLASSES)) - measure(pair.correct(evidence.CLASSES)))


@mutant(
    DETECTOR,
    "The proposals' head starts a hundred times as wide as it should: losses of hundreds, offsets that overflow",
    check="detector_start",
    category="initialisation",
    evidence=lambda pair: _start(pair, lambda model: float(model.rpn.head.conv.weight.detach().std())),
)
def wide_start(model: Any) -> nn.Module:
    for layer in (model.rpn.head.conv, model.rpn.head.objectness, model.rpn.head.offsets):
        nn.init.normal_(layer.weight, std=1.0)
    return model


@mutant(
    DETECTOR,
    "The pyramid's convolutions start constant, so that its channels are one channel for ever",
    check="detector_start",
    category="initialisation",
    evidence=lambda pair: _start(pair, lambda model: float(model.fpn.laterals[0].weight.detach().std())),
)
def constant_pyramid(model: Any) -> nn.Module:
    for _, layer in of_type(model.fpn, nn.Conv2d):
        nn.init.constant_(layer.weight, 0.01)
    return model


def _copied(pair: Pair) -> float:
    """One where only the faulty detector can't be copied after a step."""
    refused = []
    for model in evidence.pair_of(pair):
        evidence.losses_of(model, evidence.BOXES)
        try:
            copy.deepcopy(model)
            refused.append(False)
        except RuntimeError:
            refused.append(True)
    return float(refused == [False, True])


@mutant(
    DETECTOR,
    "The last pyramid stays on the module: a step's memory is never given back, and copying raises",
    check="kept_graph",
    category="state",
    evidence=_copied,
)
@forward_of()
def kept_pyramid(self: Any, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
    handle = self.fpn.register_forward_hook(lambda module, given, output: setattr(self, "last", output))
    try:
        return Detector.forward(self, images, targets)
    finally:
        handle.remove()


@mutant(
    DETECTOR,
    "load_state_dict is never strict: an empty state is taken, and nothing said",
    check="detector_state",
    category="state",
    evidence=accepts(lambda own: {}, evidence.pair_of),
)
def loading_is_lenient(model: Any) -> nn.Module:
    return loading_leniently(model)


@mutant(
    DETECTOR,
    "Each training pass clears the gradients: what micro-batches have gathered is lost",
    check="detector_state",
    category="gradient",
    evidence=clears(lambda model, _: evidence.losses_of(model, evidence.BOXES), evidence.pair_of),
)
def gradients_cleared(model: Any) -> nn.Module:
    return clearing_gradients(model)


@mutant(
    DETECTOR,
    "Building it seeds Python's generator",
    check="detector_state",
    category="state",
    evidence=reseeds(random.seed, random.random),
)
def python_seeded(model: Any) -> nn.Module:
    random.seed(0)
    return nn.Module.train(model, model.training)
