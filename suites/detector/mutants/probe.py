"""That a detector's variant differs, shown in a few direct lines that use none of the checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.probe import Evidence, Pair, compared, difference, filled
from harness.mutants.variant import BaseModel
from suites.detector.architectures import DETECTOR_RESNET18, FAMILY
from suites.detector.model.faster_rcnn import Detector, detector_resnet18

CLASSES = 5
BOXES = [[2.0, 3.0, 40.0, 28.0], [30.0, 4.0, 62.0, 20.0], [6.0, 2.0, 20.0, 31.0]]


def small_detector(
    num_classes: int = 91,
    *,
    width: int = 16,
    hidden: int = 32,
    min_size: int = 800,
    max_size: int = 1333,
    size_divisible: int = 32,
    norm: str = "batch",
    trainable: int = 5,
) -> Detector:
    """The suite's detector with narrow heads."""
    return detector_resnet18(
        num_classes,
        width=width,
        hidden=hidden,
        min_size=min_size,
        max_size=max_size,
        size_divisible=size_divisible,
        norm=norm,
        trainable=trainable,
    )


DETECTOR = BaseModel(family=FAMILY, architecture=DETECTOR_RESNET18, factory=small_detector)


def pair_of(pair: Pair, side: int = 64, divisible: int = 32) -> tuple[nn.Module, nn.Module]:
    """Both with the same weights, and with even scores, so that much is found."""
    models = []
    for build in (pair.correct, pair.faulty):
        model = build(CLASSES, min_size=side // 2, max_size=side, size_divisible=divisible).double()
        filled(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith(("rpn.head.o", "roi_heads.classes", "roi_heads.offsets")):
                    parameter.mul_(0.1)
        models.append(model)
    return models[0], models[1]


def both(measure: Callable[[Any], Tensor]) -> Evidence:
    """Of what ``measure`` gives for both."""
    return compared(lambda model, _: measure(model).double(), pair_of)


def images(height: int = 32, width: int = 64) -> list[Tensor]:
    """Two, of noise."""
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(3, height, width, generator=generator, dtype=torch.float64) for _ in range(2)]


def detections(side: int = 64, divisible: int = 32, given: Callable[[], Sequence[Tensor]] = images) -> Evidence:
    """Of boxes, labels or scores in eval mode; one where their numbers differ."""

    def measure(pair: Pair) -> float:
        with torch.no_grad():
            ours, theirs = (m.eval()(list(given())) for m in pair_of(pair, side, divisible))
        return max(difference(b[k].double(), a[k].double()) for a, b in zip(ours, theirs, strict=True) for k in a)

    return measure


PADDED = detections(200, 32, lambda: [images(100, 180)[0], images(75, 150)[0]])
"""Of detections in images of two sizes, of which one is padded."""


def losses_of(model: Any, boxes: list[list[float]]) -> dict[str, Tensor]:
    """In train mode, by name, on two images that have ``boxes`` each, with the same draws every time."""
    torch.manual_seed(0)
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        "labels": torch.arange(1, len(boxes) + 1),
    }
    return model.train()(images(), [target, target])


def losses(pair: Pair) -> float:
    """Of any loss in train mode."""
    ours, theirs = (losses_of(m, BOXES) for m in pair_of(pair))
    return max(difference(theirs[k].detach(), v.detach()) for k, v in ours.items())


def loss_gradients(pair: Pair) -> float:
    """Of any parameter for the sum of the losses, with annotated boxes and without; one where it is missing."""
    largest = 0.0
    for boxes in (BOXES, []):
        grads = []
        for model in pair_of(pair):
            torch.stack(list(losses_of(model, boxes).values())).sum().backward()
            grads.append({n: p.grad for n, p in model.named_parameters()})
        for name, grad in grads[0].items():
            other = grads[1].get(name)
            if grad is not None and (other is None or float((grad - other).abs().max()) > 1e-9):
                largest = max(largest, 1.0 if other is None else float((grad - other).norm()))
    return largest


def statistics(pair: Pair) -> float:
    """Of any buffer after one step in train mode."""
    ours, theirs = pair_of(pair)
    for model in (ours, theirs):
        losses_of(model, BOXES)
    named = dict(theirs.named_buffers())
    return max(difference(named[n].double(), b.double()) for n, b in ours.named_buffers())


def accepts(boxes: list[list[float]], label: int = 1) -> Evidence:
    """One where the faulty detector trains on what the correct one refuses."""

    def measure(pair: Pair) -> float:
        refused = []
        target = {"boxes": torch.tensor(boxes, dtype=torch.float64), "labels": torch.tensor([label] * len(boxes))}
        for model in pair_of(pair):
            try:
                model.train()(images(), [target, target])
                refused.append(False)
            except (ValueError, IndexError, RuntimeError):
                refused.append(True)
        return 1.0 if refused == [True, False] else 0.0

    return measure


def of_nan(pair: Pair) -> float:
    """One where the faulty detector finds something that is not finite in images of NaN."""
    _, faulty = pair_of(pair)
    with torch.no_grad():
        found = faulty.eval()([torch.full((3, 32, 64), float("nan"), dtype=torch.float64)])[0]
    return float(not bool(found["boxes"].isfinite().all() and found["scores"].isfinite().all()))
