"""Detectors that do to the process, to gradients or to loaded weights what nobody asked for."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants import detector_evidence as evidence
from harness.mutants.detector_evidence import DETECTOR
from harness.mutants.evidence import Pair
from harness.mutants.mutant import mutant
from harness.mutants.process import reseeds
from harness.mutants.surgery import become
from suites.detector.model.faster_rcnn import Detector


class Lenient(Detector):
    """Takes any state."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def _taken(pair: Pair) -> float:
    accepted = []
    for model in evidence.pair_of(pair):
        try:
            model.load_state_dict({})
            accepted.append(True)
        except RuntimeError:
            accepted.append(False)
    return float(accepted == [False, True])


@mutant(
    DETECTOR,
    "load_state_dict is never strict: an empty state is taken, and nothing said",
    check="detector_state",
    category="state",
    evidence=_taken,
)
def loading_is_lenient(model: Any) -> nn.Module:
    return become(model, Lenient)


class Clearing(Detector):
    """Starts each training pass without gradients."""

    def forward(self, images: Sequence[Tensor], targets: Any = None) -> Any:
        if self.training:
            self.zero_grad()
        return super().forward(images, targets)


def _cleared(pair: Pair) -> float:
    left = []
    for model in evidence.pair_of(pair):
        parameter = next(p for p in model.parameters() if p.requires_grad)
        parameter.grad = torch.ones_like(parameter)
        target = {"boxes": torch.tensor([[2.0, 2.0, 30.0, 28.0]]).double(), "labels": torch.ones(1, dtype=torch.int64)}
        model.train()(evidence.images()[:1], [target])
        left.append(parameter.grad is not None)
    return float(left == [True, False])


@mutant(
    DETECTOR,
    "Each training pass clears the gradients: what micro-batches have gathered is lost",
    check="detector_state",
    category="gradient",
    evidence=_cleared,
)
def gradients_cleared(model: Any) -> nn.Module:
    return become(model, Clearing)


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
