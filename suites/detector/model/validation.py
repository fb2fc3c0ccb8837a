"""What a detector is given, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_images(images: Sequence[Tensor]) -> None:
    """Raise ValueError or TypeError for what is no list of (3, height, width) images of a floating type."""
    if len(images) == 0:
        raise ValueError("no images: expected a list of (3, height, width) tensors")
    for number, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"image {number}: shape {tuple(image.shape)}; expected (3, height, width)")
        if not image.is_floating_point():
            raise TypeError(f"image {number}: {image.dtype}; expected a floating type with values from 0 to 1")


def check_targets(
    targets: Sequence[dict[str, Tensor]] | None, sizes: Sequence[tuple[int, int]], num_classes: int
) -> None:
    """Raise ValueError naming the first target that is no annotation of its image of ``sizes`` (height, width)."""
    if targets is None or len(targets) != len(sizes):
        raise ValueError(
            f"{0 if targets is None else len(targets)} targets for {len(sizes)} images: one each, in training"
        )
    for number, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        problem = _problem(target, size, num_classes)
        if problem:
            raise ValueError(f"target {number}: {problem}")


def _problem(target: dict[str, Tensor], size: tuple[int, int], num_classes: int) -> str:
    missing = [key for key in ("boxes", "labels") if key not in target]
    if missing:
        return f"has no {' and no '.join(missing)}"
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        return f"boxes are {boxes.dtype} {tuple(boxes.shape)}; expected floating (n, 4)"
    if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
        return f"labels are {labels.dtype} {tuple(labels.shape)}; expected int64 ({len(boxes)},)"
    height, width = size
    limit = boxes.new_tensor([width, height])
    faults = (
        ("is not finite", ~boxes.isfinite().all(1)),
        ("has no positive width and height (expected x1 y1 x2 y2)", (boxes[:, 2:] <= boxes[:, :2]).any(1)),
        (
            f"is not inside the image of {width}x{height}",
            (boxes[:, :2] < 0).any(1) | (boxes[:, 2:] > limit + 1e-3 * limit.max()).any(1),
        ),
        (f"is labelled outside 1 to {num_classes - 1} (0 is background)", (labels < 1) | (labels >= num_classes)),
    )
    for what, which in faults:
        if bool(which.any()):
            first = int(which.nonzero()[0])
            return f"box {first}, {boxes[first].tolist()} with label {int(labels[first])}, {what}"
    return ""
