"""Agreement with torchvision's `FasterRCNN` over the same pyramid, weights transplanted, in float64.

Images for the losses are so small that these look at every anchor and every proposal: nothing is drawn, and two correct
detectors agree whatever their random numbers are.

Half precision: what autocast must leave in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from harness.bench.bench import Bench
from harness.errors import SubjectError
from suites.detector.checks.alignment import Twins, twins
from suites.detector.checks.bench import detect, images, library_settings, losses, ready, target

Annotated = tuple[list[list[float]], list[int]]
SIZE = (32, 64)
ENLARGED: tuple[tuple[tuple[int, int], Annotated], ...] = (
    ((16, 32), ([[1.0, 2.0, 20.0, 14.0], [15.0, 2.0, 31.0, 10.0]], [1, 3])),
    ((20, 24), ([[3.0, 1.0, 20.0, 18.0]], [2])),
)
TIGHT = 1e-9
"""Relative, float64: hundreds of thousands of roundings of 1e-16 that don't add up in one direction."""
FLOAT32 = 2e-6
"""Of what torchvision computes in float32 whatever it is given: the objectness loss, and ratios of sizes."""
TARGETS: tuple[Annotated, ...] = (
    ([[2.0, 3.0, 40.0, 28.0], [30.0, 4.0, 62.0, 20.0], [6.0, 2.0, 20.0, 31.0]], [1, 3, 4]),
    ([[5.0, 1.0, 60.0, 30.0]], [2]),
    ([], []),
)
INSIDE: Annotated = ([[16.0, 8.0, 48.0, 32.0], [24.0, 14.0, 32.0, 22.0]], [1, 3])
"""The second box lies in the first: the anchors that overlap it most overlap the first box more."""
THRESHOLDS: tuple[Annotated, ...] = (
    ([[16.0, 20.0, 48.0, 56.0]], [1]),  # 28 of 40 rows shared with the anchor of 32 px at (32, 32): IoU 0.7
    ([[0.0, 16.0, 32.0, 32.0]], [2]),  # 16 of 32 rows of the anchor of 32 px at (16, 16): IoU 0.5
    ([[16.0, 36.0, 48.0, 56.0]], [3]),  # 12 of 40 rows shared with the anchor of 32 px at (32, 32): IoU 0.3
)


def _small(bench: Bench) -> Twins:
    return twins(bench, min_size=SIZE[0], max_size=SIZE[1])


def _relative(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        return 1.0
    return float((got.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12))


def _compare(bench: Bench, made: Twins, given: list[Tensor], where: str) -> None:
    pairs = zip(detect(bench, made.subject.net, given), detect(bench, made.reference.net, given), strict=True)
    for number, (got, expected) in enumerate(pairs):
        assert len(expected["boxes"]) > 3, "the reference found next to nothing: nothing would be compared"
        for key in ("scores", "boxes", "labels"):
            off = _relative(got[key], expected[key])
            if off > FLOAT32:
                why = made.first_difference(given[number][None], TIGHT)
                raise AssertionError(
                    f"{bench.who}: {where}, image {number}: {key} of {len(got[key])} detections differ from "
                    f"torchvision's {len(expected[key])} by {off:.2g} (bound {FLOAT32:.0e}); {why}"
                )


def check_parity_detections(bench: Bench) -> None:
    """Boxes, labels and scores; the first differing layer is named.

    Then for images as high as the first were wide, whose levels have as many cells, and for images twice as large,
    which are made smaller.
    """
    made, (height, width) = _small(bench), SIZE
    _compare(bench, made, images(bench, SIZE, SIZE), f"images of {width}x{height}")
    after = f"after images of {width}x{height}"
    _compare(bench, made, images(bench, (width, height)), f"{after}, an image of {height}x{width}")
    twice = images(bench, (2 * height, 2 * width))
    _compare(bench, made, twice, f"an image of {2 * width}x{2 * height}, which is made half as large")


@torch.no_grad()
def check_parity_scores(bench: Bench) -> None:
    """Where scores lie on both sides of 0.05, and fewer than 100 are above it, those below are no detections."""
    made = _small(bench)
    bias = made.reference.get_parameter("net.roi_heads.box_predictor.cls_score.bias")
    heads: Any = made.reference.get_submodule("net.roi_heads")
    given = images(bench, SIZE)
    for background in (2.8, 3.0, 3.2, 3.5, 4.0):  # e^2.8 = 16: four classes with 0.05 each
        bias[0] = background
        above = len(detect(bench, made.reference.net, given)[0]["boxes"])
        if 10 < above < 90:
            break
    threshold, heads.score_thresh = heads.score_thresh, 0.0
    assert len(detect(bench, made.reference.net, given)[0]["boxes"]) > above, "no score lies below the threshold"
    heads.score_thresh = threshold
    made.share()
    _compare(bench, made, given, "with scores on both sides of 0.05")


@torch.no_grad()
def check_parity_large_offsets(bench: Bench) -> None:
    """Where either stage asks for boxes e^5 times as wide, or as high, this is cut at 1000/16 = e^4.1.

    Their centres are moved by half of that, so that left or upper edges lie where the anchors' or proposals' do.
    """
    stages = (("rpn.head", 1.0, 1.0, "the first"), ("roi_heads.box_predictor", 10.0, 5.0, "the second"))
    for layer, shift, stretch, stage in stages:
        for axis, way in enumerate(("wide", "high")):
            made = _small(bench)
            bias = made.reference.get_parameter(f"net.{layer}.bbox_pred.bias")
            bias[axis::4] += shift * 0.5 * 1000 / 16
            bias[axis + 2 :: 4] += stretch * 5.0
            made.share()
            where = f"with offsets of {stage} stage that ask for boxes e^5 times as {way}"
            _compare(bench, made, images(bench, SIZE, SIZE), where)


def check_parity_anchors(bench: Bench) -> None:
    """Detections on images of two sizes that are resized and padded, where every level has a stride of its own."""
    made = twins(bench, min_size=100, max_size=200)
    _compare(bench, made, images(bench, (100, 180), (75, 161)), "images of 180x100 and 161x75, resized to one batch")


def check_parity_odd_sizes(bench: Bench) -> None:
    """Detections on an image that is not padded, so that no level is twice as large as the next."""
    try:
        made = twins(bench, min_size=75, max_size=117, divisible=1)
    except SubjectError as error:
        if "unexpected keyword argument 'size_divisible'" not in str(error):
            raise
        pytest.skip("the factory takes no size_divisible: what it pads to can't be changed")
    _compare(bench, made, images(bench, (75, 117)), "an image of 117x75 that is not padded")


@torch.no_grad()
def check_parity_large_boxes(bench: Bench) -> None:
    """Detections on an image so large that proposals, four times as wide and high as anchors, are read from P3, P4 and
    P5, and the best 1,000 of each level are chosen; and of these, where they are small, the best 1,000 of all."""
    for factor, what in ((4.0, "large"), (0.5, "small")):
        made = twins(bench, min_size=512, max_size=512)
        bias = made.reference.get_parameter("net.rpn.head.bbox_pred.bias")
        for side in (2, 3):
            bias[side::4] += math.log(factor)
        made.share()
        _compare(bench, made, images(bench, (512, 512)), f"an image of 512x512 with {what} proposals")


def _losses(
    bench: Bench,
    model: nn.Module,
    annotated: Sequence[Annotated] = TARGETS,
    size: tuple[int, int] = SIZE,
    step: int = 0,
) -> dict[str, Tensor]:
    given = [(image + 0.1 * step) / (1 + 0.1 * step) for image in images(bench, *[size] * len(annotated))]
    return losses(bench, model, given, [target(*t) for t in annotated])


def compare_losses(bench: Bench, got: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Raise AssertionError naming the losses that are missing, too many or other than ``expected``."""
    missing = sorted(set(expected) ^ set(got))
    assert not missing, f"{bench.who}: losses {sorted(got)}; expected {sorted(expected)}"
    wrong = [
        f"{k} is {float(got[k].detach()):.6g}, expected {float(v.detach()):.6g}"
        for k, v in expected.items()
        if _relative(got[k].detach(), v.detach()) > FLOAT32
    ]
    right = [k for k in expected if not any(w.startswith(f"{k} ") for w in wrong)]
    assert not wrong, f"{bench.who}: {where}, {'; '.join(wrong)} (equal: {', '.join(right) or 'none'})"


def _comparable(bench: Bench) -> Twins:
    """Twins for small images whose losses depend on no draw and on the same statistics; skips where there are none."""
    if bench.architecture.facts.get("settings") and not library_settings(bench):
        pytest.skip("the factory does not take torchvision's keywords for how much is sampled: losses depend on draws")
    made = _small(bench)
    if not bench.architecture.own and any(isinstance(m, FrozenBatchNorm2d) for m in made.subject.modules()):
        pytest.skip("its norms are frozen, where those of torchvision's builder without weights are not")
    return made


def check_parity_losses(bench: Bench) -> None:
    """Each of the four, in train mode, with an image that has no box; with a box inside another; and for two images
    that are enlarged, each by a factor of its own, and padded to one batch."""
    made = _comparable(bench)
    got, expected = _losses(bench, made.subject.net), _losses(bench, made.reference.net)
    compare_losses(bench, got, expected, "in train mode")
    got, expected = (_losses(bench, m.net, [INSIDE] * 2) for m in (made.subject, made.reference))
    compare_losses(bench, got, expected, "in train mode with a box inside another, to which its anchors belong")
    given, targets = images(bench, *(size for size, _ in ENLARGED)), [target(*t) for _, t in ENLARGED]
    got, expected = (losses(bench, m.net, given, targets) for m in (made.subject, made.reference))
    compare_losses(bench, got, expected, "in train mode on images of 32x16 and 24x20, which are enlarged")


@torch.no_grad()
def check_parity_thresholds(bench: Bench) -> None:
    """Losses where an annotated box overlaps an anchor by exactly 0.7, 0.5 and 0.3; proposals are the anchors.

    All coordinates are whole numbers, so that these overlaps are the thresholds' nearest float64 in any order of
    computation. 0.7 and 0.5 are matched, 0.3 is ignored.
    """
    made = twins(bench, min_size=56, max_size=64)
    for name, parameter in made.reference.named_parameters():
        if "rpn.head.bbox_pred" in name:
            parameter.zero_()
    made.share()
    for annotated, overlap in zip(THRESHOLDS, (0.7, 0.5, 0.3), strict=True):
        with torch.enable_grad():
            got, expected = (
                _losses(bench, m.net, [annotated] * 2, size=(56, 64)) for m in (made.subject, made.reference)
            )
        compare_losses(bench, got, expected, f"with a box that overlaps an anchor by exactly {overlap}")


def check_parity_detector_gradients(bench: Bench) -> None:
    """Of each loss by itself, for every parameter: what a proposal's position must not carry shows here."""
    made = _comparable(bench)
    for parameter in (*made.subject.parameters(), *made.reference.parameters()):
        parameter.requires_grad_(True)
    got, expected = _losses(bench, made.subject.net), _losses(bench, made.reference.net)
    compare_losses(bench, got, expected, "in train mode")
    for name in expected:
        ours = made.alignment.to_reference(_gradients(made.subject, got[name]))
        theirs = _gradients(made.reference, expected[name])
        floor = 1e-6 * max(float(g.norm()) for g in theirs.values())  # what cancels is rounding only
        for weight, there in reversed(theirs.items()):  # nearest to the output first
            off = float((ours[weight] - there).norm() / there.norm().clamp_min(floor))
            assert off <= 1e-6, (
                f"{bench.who}: the gradient of {name} for {made.own_name(weight)} differs from torchvision's by "
                f"{off:.2g} (norm {float(ours[weight].norm()):.3g}, expected {float(there.norm()):.3g})"
            )


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    if not loss.requires_grad:
        return {n: torch.zeros_like(p) for n, p in named.items()}
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def check_parity_detector_steps(bench: Bench) -> None:
    """Parameters and BatchNorm's statistics after five SGD steps with momentum and weight decay."""
    made = _small(bench)
    for model in (made.subject, made.reference):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        for step in range(5):
            optimizer.zero_grad()
            found = _losses(bench, model.net, step=step)
            bench.backward(torch.stack([v.double() for v in found.values()]).sum())
            optimizer.step()
    ours = made.alignment.to_reference({n: t.detach() for n, t in made.subject.state_dict().items()})
    for name, tensor in made.reference.state_dict().items():
        if name in ours and tensor.is_floating_point():
            off = _relative(ours[name], tensor)
            assert off <= 1e-5, (
                f"{bench.who}: after five steps {made.own_name(name)} differs from torchvision's by {off:.2g}"
            )


HEIGHT, WIDTH = 96, 160
OFFSETS = "net.roi_heads.box_predictor.bbox_pred"


def check_half_precision_boxes(bench: Bench) -> None:
    """Under autocast to bfloat16 boxes are decoded in float32, in both stages: a coordinate above 256 has steps of 2 px
    in bfloat16. For the first stage, the second's offsets are zero, so that detections are proposals."""
    _expect_float32(bench, ready(bench, min_size=HEIGHT, max_size=2 * HEIGHT), "the boxes'")
    made = twins(bench, min_size=HEIGHT, max_size=2 * HEIGHT)
    with torch.no_grad():
        for part in ("weight", "bias"):
            made.reference.get_parameter(f"{OFFSETS}.{part}").zero_()
        made.share()
    _expect_float32(bench, made.subject.net, "the proposals'")


def _expect_float32(bench: Bench, model: nn.Module, whose: str) -> None:
    given = [image.float() for image in images(bench, (HEIGHT, WIDTH))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = detect(bench, model.float(), given)
    boxes = found["boxes"]
    assert boxes.dtype == torch.float32, f"{bench.who}: under autocast boxes are {boxes.dtype}; expected float32"
    inside = _inside(boxes)
    rounded = (inside == inside.bfloat16().float()).float().mean()
    assert not len(inside) or rounded < 0.5, (
        f"{bench.who}: under autocast {float(rounded):.0%} of {whose} coordinates are those of bfloat16; expected "
        "decoding in float32"
    )


def _inside(boxes: Tensor) -> Tensor:
    """The coordinates that clipping did not put on the image's edge."""
    edges = boxes.new_tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return boxes[(boxes > 0) & (boxes < edges)]
