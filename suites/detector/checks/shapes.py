"""What a detector takes and gives, over drawn numbers of images, sizes and numbers of annotated boxes."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.bench.drawn_examples import describe_failure, examples
from harness.errors import SubjectError
from suites.detector.checks.behaviour import sound
from suites.detector.checks.bench import CLASSES, detect, images, losses, ready, target

Drawn = list[tuple[int, int, int]]
"""For each image its height, its width, and how many boxes are annotated in it."""

PLAIN: Drawn = [(64, 96, 1), (65, 47, 0), (40, 120, 3)]
ONE = st.tuples(st.integers(33, 200), st.integers(33, 200), st.integers(0, 6))


def check_detector_shapes(bench: Bench) -> None:
    """Per image a list entry of sound detections in its own coordinates; in training the same finite scalars, however
    many images and boxes there are; and images and targets are left as they were given."""
    model = bench.shared("drawn", lambda: ready(bench))
    keys = set(losses(bench, model, images(bench, (64, 64)), [target([[4.0, 6.0, 40.0, 50.0]], [1])]))

    small = bench.architecture.own  # a library's own detectors can't be built narrow

    @examples(1 / 8 if small else 1 / 25, least=4)
    @given(st.lists(ONE, min_size=1, max_size=4 if small else 2))
    @example(PLAIN)
    def shapes(drawn: Drawn) -> None:
        try:
            _check_one(bench, model, drawn, keys)
        except AssertionError as error:
            line = " ".join(f"{width}x{height} with {count}" for height, width, count in drawn)
            text = f"{error}; images (and annotated boxes) {line}"
            raise (SubjectError if isinstance(error, SubjectError) else AssertionError)(text) from error

    describe_failure(bench, shapes)


def _check_one(bench: Bench, model: nn.Module, drawn: Drawn, keys: set[str]) -> None:
    given_images = images(bench, *((height, width) for height, width, _ in drawn))
    targets = [_annotated(number, *one) for number, one in enumerate(drawn)]
    before = [image.clone() for image in given_images], [t["boxes"].clone() for t in targets]
    lists = list(given_images), [dict(t) for t in targets]
    for found, (height, width, _) in zip(detect(bench, model, given_images), drawn, strict=True):
        sound(bench, found, (height, width))
    values = losses(bench, model, given_images, targets)
    assert set(values) == keys, f"{bench.who}: losses {sorted(values)}; expected {sorted(keys)} whatever is annotated"
    wrong = {n: float(v.detach()) for n, v in values.items() if not bool(v.isfinite()) or float(v.detach()) < 0}
    assert not wrong, f"{bench.who}: losses {wrong}; expected finite values, not below zero"
    for what, now, then in (
        ("image", given_images, before[0]),
        ("target's boxes", [t["boxes"] for t in targets], before[1]),
    ):
        for number, (one, another) in enumerate(zip(now, then, strict=True)):
            assert torch.equal(one, another), f"{bench.who}: {what} {number} was changed in place"
    for number, (image, own) in enumerate(zip(given_images, lists[0], strict=True)):
        assert image is own, f"{bench.who}: the caller's list has another tensor in the place of image {number}"
    for number, (held, passed) in enumerate(zip(targets, lists[1], strict=True)):
        changed = [k for k in {**held, **passed} if held.get(k) is not passed.get(k)]
        assert not changed, (
            f"{bench.who}: the caller's target {number} has another {', '.join(changed)} after the call; a second "
            "epoch would train on that"
        )


def _annotated(number: int, height: int, width: int, count: int) -> dict[str, Tensor]:
    """Boxes a tenth to half as wide and high as their image, inside it."""
    generator = torch.Generator().manual_seed(number)
    corners = 0.5 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    sides = 0.1 + 0.4 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat([corners, corners + sides], dim=1) * torch.tensor([width, height] * 2, dtype=torch.float64)
    return target(boxes.tolist(), [1 + n % (CLASSES - 1) for n in range(count)])
