"""What any detector with torchvision's interface promises, whatever is inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.errors import SubjectError, first_line
from suites.detector.checks.bench import CLASSES, Detections, build, detect, images, losses, ready, target

SIZES = ((256, 256), (200, 264), (333, 500))
"""The second and third are no multiples of 32: doubling a level does not give the size of the next."""
EXACT = 1e-6
"""Relative, in float64: some scale boxes by ratios in float32."""
ANNOTATED = ([[4.0, 6.0, 40.0, 50.0], [10.0, 8.0, 60.0, 62.0]], [1, 3])


def check_detector_interface(bench: Bench) -> None:
    """Detections are finite, inside the image, labelled from 1, with scores from 0 to 1, best first."""
    model = ready(bench)
    for size in ((64, 64), (48, 100), (100, 48)):
        (found,) = detect(bench, model, images(bench, size))
        sound(bench, found, size)
        assert len(found["boxes"]), f"{bench.who}: found nothing in noise with no prior against detections"
    values = losses(bench, model, images(bench, (64, 64), (64, 64)), [target(*ANNOTATED)] * 2)
    wrong = {k: float(v.detach()) for k, v in values.items() if not bool(torch.isfinite(v)) or float(v.detach()) < 0}
    assert not wrong, f"{bench.who}: losses {wrong}; expected finite values, not below zero"
    _check_other_keys(bench, model, values)


def _check_other_keys(bench: Bench, model: nn.Module, values: dict[str, Tensor]) -> None:
    """What data sets add to a target (a number, an area, a crowd) changes no loss, and in eval mode targets nothing."""
    given = images(bench, (64, 64), (64, 64))
    extra = {"image_id": torch.tensor(7), "area": torch.tensor([1.0, 2.0]), "iscrowd": torch.tensor([1, 0])}
    targets = [{**target(*ANNOTATED), **extra} for _ in given]
    for name, value in losses(bench, model, given, targets).items():
        off = abs(float(value.detach()) - float(values[name].detach()))
        assert off <= EXACT * max(1.0, abs(float(value.detach()))), (
            f"{bench.who}: {name} differs by {off:.2g} where targets also have {', '.join(extra)}; expected the same"
        )
    alone = detect(bench, model, given)
    try:
        with torch.no_grad():
            found = model(given, targets)
    except Exception as error:
        raise SubjectError(
            f"{bench.who}: in eval mode, with targets, raised {type(error).__name__}: {first_line(error)}"
        ) from error
    assert isinstance(found, list), (
        f"{bench.who}: in eval mode, with targets, gave {type(found).__name__}; expected detections, as without targets"
    )
    assert len(found) == len(given), f"{bench.who}: in eval mode, with targets, gave {len(found)} dicts; expected two"
    for number, (got, expected) in enumerate(zip(found, alone, strict=True)):
        _same(bench, got, expected, f"image {number} in eval mode with targets and without")


def sound(bench: Bench, found: dict[str, Tensor], size: tuple[int, int]) -> None:
    """Raise AssertionError where these are no detections of an image of ``size`` (height, width)."""
    boxes, labels, scores = found["boxes"], found["labels"], found["scores"]
    height, width = size
    where = f"{bench.who}: on an image of {width}x{height}"
    assert boxes.shape == (len(scores), 4), f"{where}: boxes are {tuple(boxes.shape)} for {len(scores)} scores"
    assert labels.shape == scores.shape, f"{where}: labels are {tuple(labels.shape)} for {len(scores)} scores"
    assert labels.dtype == torch.int64, f"{where}: labels are {labels.dtype}; expected torch.int64"
    finite = bool(boxes.isfinite().all() and scores.isfinite().all())
    assert finite, f"{where}: a box or score is not finite"
    if len(boxes) == 0:
        return
    sides = boxes[:, 2:] - boxes[:, :2]
    ordered = sides >= 0 if bench.architecture.facts.get("keeps_empty") else sides > 0
    assert bool(ordered.all()), f"{where}: a box has no positive side; expected x1 y1 x2 y2"
    beyond = float((boxes - boxes.new_tensor([width, height, width, height])).amax())
    outside = max(beyond, -float(boxes.amin()))
    assert outside <= EXACT * max(size), f"{where}: a box lies {outside:.3g} px outside; expected clipping to the image"
    low, high = int(labels.min()), int(labels.max())
    first = bench.architecture.facts.get("first_label", 1)
    assert low >= first, f"{where}: label {low}; expected {first} or more, 0 is background"
    assert high < CLASSES, f"{where}: label {high} with num_classes={CLASSES}; expected at most {CLASSES - 1}"
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 1, f"{where}: scores not between 0 and 1"
    assert bool((scores[1:] <= scores[:-1]).all()), f"{where}: detections are not in falling order of score"


def check_image_sizes(bench: Bench) -> None:
    """Square, not square, and no multiple of any stride, unscaled."""
    for size in SIZES:
        model = bench.shared(f"sized_{size}", lambda s=size: ready(bench, min_size=min(s), max_size=max(s)))
        (found,) = detect(bench, model, images(bench, size))
        sound(bench, found, size)


def check_images_without_boxes(bench: Bench) -> None:
    """Box losses are zero, the others are not, and every parameter has a gradient, as distributed training needs."""
    model = ready(bench)
    values = losses(bench, model, images(bench, (64, 64), (64, 64)), [target([], [])] * 2)
    for name, value in values.items():
        number = float(value.detach())
        if "box" in name:
            assert number == 0, f"{bench.who}: {name} is {number:.4g} on images without boxes; expected 0"
        else:
            assert 0 < number < float("inf"), f"{bench.who}: {name} is {number:.4g} without boxes; expected above 0"
    total = torch.stack(list(values.values())).sum()
    bench.backward(total)
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"{bench.who}: no gradient on images without boxes for {', '.join(without[:5])}"


def check_detector_batch(bench: Bench) -> None:
    """An image's detections are the same alone and with others of its size, whatever their order."""
    model = ready(bench)
    given = images(bench, (64, 96), (64, 96), (64, 96))
    together = detect(bench, model, given)
    for number, image in enumerate(given):
        (alone,) = detect(bench, model, [image])
        _same(bench, together[number], alone, f"image {number} of a batch of 3 and alone")


def _same(bench: Bench, got: dict[str, Tensor], expected: dict[str, Tensor], what: str, scale: float = 1.0) -> None:
    count, wanted = len(got["boxes"]), len(expected["boxes"])
    assert count == wanted, f"{bench.who}: {what}: {count} and {wanted} detections"
    for key in ("scores", "boxes"):
        off = float((got[key] - expected[key] * (scale if key == "boxes" else 1)).abs().max()) if count else 0.0
        bound = EXACT * (1 if key == "scores" else 256)
        assert off <= bound, f"{bench.who}: {what}: {key} differ by {off:.3g}; at most {bound:.1e} is rounding"
    assert bool((got["labels"] == expected["labels"]).all()), f"{bench.who}: {what}: labels differ"


def check_rescaled_boxes(bench: Bench) -> None:
    """One colour at two sizes is one image after resizing: boxes scale with the size that was given."""
    model = ready(bench)
    colour = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)[:, None, None]
    small, large = (detect(bench, model, [colour.expand(3, side, 2 * side).clone()])[0] for side in (32, 128))
    _same(bench, large, small, "one colour at 64x32 and 256x128, boxes scaled by 4", scale=4.0)


def check_non_finite_images(bench: Bench) -> None:
    """NaN in the heads' input may be refused, and never comes out as a detection, nor changes another image's."""
    model = ready(bench)
    clean, spoilt = images(bench, (64, 64))[0], torch.full((3, 64, 64), float("nan"), dtype=torch.float64)
    (alone,) = detect(bench, model, [clean])
    try:
        beside = detect(bench, model, [clean, spoilt])[0]
    except SubjectError:
        return
    same = alone["scores"].shape == beside["scores"].shape and torch.allclose(alone["scores"], beside["scores"])
    assert same, (
        f"{bench.who}: beside an image of NaN another image has {len(beside['scores'])} detections, alone "
        f"{len(alone['scores'])}; expected the same"
    )
    try:
        found: Detections = detect(bench, model, [torch.full((3, 64, 64), float("nan"), dtype=torch.float64)])
    except SubjectError:
        return
    for key in ("boxes", "scores"):
        finite = bool(found[0][key].isfinite().all())
        assert finite, f"{bench.who}: an image of NaN gave detections with {key} that are not finite; expected none"


def _refused(bench: Bench, boxes: list[list[float]], labels: list[int]) -> bool:
    model = ready(bench)
    try:
        losses(bench, model, images(bench, (64, 64), (64, 64)), [target(*ANNOTATED), target(boxes, labels)])
    except SubjectError:
        return True
    return False


def check_degenerate_targets(bench: Bench) -> None:
    """A box without width or height, and one with its corners exchanged, are refused rather than trained on."""
    for what, box in (
        ("of no width", [10.0, 10.0, 10.0, 20.0]),
        ("of no height", [10.0, 10.0, 20.0, 10.0]),
        ("with x2 < x1", [30.0, 10.0, 20.0, 20.0]),
        ("with y2 < y1", [10.0, 30.0, 20.0, 20.0]),
    ):
        assert _refused(bench, [box], [1]), f"{bench.who}: a target box {what}, {box}, was accepted"


def check_wrong_targets(bench: Bench) -> None:
    """Labels that are no class, NaN, and boxes outside the image are refused."""
    inside = [10.0, 10.0, 30.0, 30.0]
    cases = (
        ("label -1", inside, -1),
        ("label 0, which is background", inside, 0),
        (f"label {CLASSES} with num_classes={CLASSES}", inside, CLASSES),
        ("a box outside the image", [70.0, 10.0, 90.0, 30.0], 1),
        ("a box below the image", [10.0, 70.0, 30.0, 90.0], 1),
        ("a box with a negative corner", [-20.0, 10.0, 30.0, 30.0], 1),
        ("a box above the image", [10.0, -20.0, 30.0, 30.0], 1),
        ("a box of NaN", [float("nan"), 10.0, 30.0, 30.0], 1),
    )
    for what, box, label in cases:
        assert _refused(bench, [box], [label]), f"{bench.who}: a target with {what} was accepted"
    try:
        losses(bench, ready(bench), images(bench, (64, 64), (64, 64)), [target(*ANNOTATED)])
    except SubjectError:
        return
    raise AssertionError(f"{bench.who}: two images with one target were accepted")


def check_per_class_suppression(bench: Bench) -> None:
    """Where all classes score the same on the same boxes, each class keeps the same boxes."""
    model, _ = build(bench, min_size=32, max_size=64)
    widths = {CLASSES, 4 * CLASSES, 5 * CLASSES}  # of the class scores, of the offsets, of both in one
    heads = [p for p in model.parameters() if widths & set(p.shape)]
    assert heads, f"{bench.who}: has no parameter with {CLASSES}, {4 * CLASSES} or {5 * CLASSES} outputs"
    with torch.no_grad():
        for parameter in heads:
            parameter.zero_()
    (found,) = detect(bench, model, images(bench, (32, 64)))
    counts = torch.bincount(found["labels"], minlength=CLASSES)[1:].tolist()
    full = len(found["labels"]) >= 100 - CLASSES  # the limit of 100 cuts through the classes
    assert full or len(set(counts)) == 1, (
        f"{bench.who}: with equal scores, classes 1 to {CLASSES - 1} keep {counts} boxes; expected as many of each: "
        "suppression goes by class"
    )
