"""Annotated boxes of a data set as flat arrays: small in memory, the same for COCO and Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

THIN = 0.01
"""Pixels. A box with a side below this has no area that a detector could learn from."""


class DataError(ValueError):
    """The data can't be used; the message is one line that says what is wrong and where."""


@dataclass(frozen=True, kw_only=True)
class Category:
    """A kind of object with the number that the data set gives it."""

    id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """As read, in any order: which image each box belongs to, and what the data set calls the box in messages."""

    image: NDArray[np.int64]
    """Index of the image, from 0."""
    corners: NDArray[np.float64]
    """(n, 4) as x1 y1 x2 y2 in pixels."""
    label: NDArray[np.int64]
    """Index of the category, from 1: 0 is background."""
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    """NaN where the data set gives none: then it is the box's."""
    names: Sequence[object]


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Images with their sizes, and the boxes of image ``i`` at ``starts[i]`` up to ``starts[i + 1]``."""

    name: str
    files: tuple[Path, ...]
    ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """(images, 2) as height, width."""
    categories: tuple[Category, ...]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float32]
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_classes(self) -> int:
        """Categories, and background."""
        return len(self.categories) + 1

    def category_of(self, label: int) -> Category:
        """Back from a detector's label to the data set's own number and name."""
        return self.categories[label - 1]


def arranged(
    name: str,
    *,
    files: Sequence[Path],
    ids: Sequence[int] | NDArray[np.int64],
    sizes: NDArray[np.int64],
    categories: Sequence[Category],
    boxes: Boxes,
) -> Annotations:
    """Sorted by image, clipped to the images, without boxes that have no area left (which a notice counts).

    Raises DataError for no image, no category, an image without an area, and boxes that are not finite numbers.
    """
    if not files:
        raise DataError(f"{name}: there is no image in it")
    if not categories:
        raise DataError(f"{name}: there is no category in it, so nothing to detect")
    small = np.flatnonzero((sizes < 1).any(axis=1))
    if small.size:
        height, width = sizes[small[0]]
        raise DataError(f"{name}: image {files[small[0]].name} has width {width} and height {height}")
    odd = np.flatnonzero(~np.isfinite(boxes.corners).all(axis=1))
    if odd.size:
        where = files[boxes.image[odd[0]]].name
        raise DataError(
            f"{name}: box {boxes.names[odd[0]]} of {where} is {boxes.corners[odd[0]].tolist()}: not finite numbers"
            + (f" ({odd.size} such boxes)" if odd.size > 1 else "")
        )
    order = np.argsort(boxes.image, kind="stable")
    image = boxes.image[order]
    limit = sizes[image][:, [1, 0, 1, 0]].astype(np.float64)
    given = boxes.corners[order]
    corners = np.clip(given, 0, limit).astype(np.float32)
    whole = ((corners[:, 2:] - corners[:, :2]) >= THIN).all(axis=1)
    outside = whole & (np.abs(corners - given) > 1).any(axis=1)
    counts = np.bincount(image[whole], minlength=len(files))
    area = boxes.area[order][whole]
    kept = corners[whole]
    own = (kept[:, 2] - kept[:, 0]) * (kept[:, 3] - kept[:, 1])
    notices = []
    if not whole.all():
        notices.append(f"{name}: left out {int((~whole).sum())} boxes without an area inside their image")
    if outside.any():
        notices.append(f"{name}: cut {int(outside.sum())} boxes that reach more than a pixel out of their image")
    return Annotations(
        name=name,
        files=tuple(files),
        ids=np.asarray(ids, dtype=np.int64),
        sizes=sizes,
        categories=tuple(categories),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=kept,
        labels=boxes.label[order][whole],
        crowd=boxes.crowd[order][whole],
        area=np.where(np.isfinite(area), area, own).astype(np.float32),
        notices=tuple(notices),
    )
