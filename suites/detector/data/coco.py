"""COCO 2017 as it lies on disk: ``annotations/instances_<split>2017.json`` beside ``<split>2017/``.

torchvision's `CocoDetection` opens the file with pycocotools, which keeps every polygon as Python numbers: over 2 GB
for the training annotations. Here the file is parsed once and all that detection doesn't need is dropped on the way.
"""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suites.detector.data.annotations import Annotations, Boxes, Category, DataError, arranged


def read_coco(folder: Path, split: str, categories: Sequence[Category] | None = None) -> Annotations:
    """The ``split`` (``train`` or ``val``) of a COCO folder; with ``categories``, it must have just these.

    Categories get labels 1, 2, ... in the order of their ids. Crowds are kept and marked. Raises DataError for a
    missing or malformed file, and for annotations of images or categories that the file doesn't list.
    """
    file = folder / "annotations" / f"instances_{split}2017.json"
    return read_instances(file, folder / f"{split}2017", categories)


def read_instances(file: Path, images: Path, categories: Sequence[Category] | None = None) -> Annotations:
    """Any file of COCO's instances format, with the folder of its images."""
    found = _parse(file)
    if not found.files:
        raise DataError(f"{file}: there is no image in it")
    order = sorted(range(len(found.files)), key=found.image_ids.__getitem__)
    ids = np.asarray(found.image_ids, dtype=np.int64)[order]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if twice.size:
        raise DataError(f"{file}: image id {ids[twice[0]]} is given twice")
    known = found.categories(file)
    if categories is not None and list(categories) != known:
        odd = sorted({c.name for c in known} ^ {c.name for c in categories}) or ["their ids"]
        raise DataError(f"{file}: other categories than those trained on ({', '.join(odd[:3])})")
    image = _places(np.asarray(found.of_image, dtype=np.int64), ids, file, "image", found.names)
    kinds = np.asarray([c.id for c in known], dtype=np.int64)
    label = _places(np.asarray(found.of_category, dtype=np.int64), kinds, file, "category", found.names) + 1
    corners = np.asarray(found.boxes, dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]  # COCO gives x, y, width, height
    return arranged(
        str(file),
        files=[images / found.files[n] for n in order],
        ids=ids,
        sizes=np.asarray(found.sizes, dtype=np.int64).reshape(-1, 2)[order],
        categories=known,
        boxes=Boxes(
            image=image,
            corners=corners,
            label=label,
            crowd=np.asarray(found.crowd, dtype=np.bool_),
            area=np.asarray(found.area, dtype=np.float64),
            names=found.names,
        ),
    )


def _places(wanted: np.ndarray, known: np.ndarray, file: Path, what: str, names: Sequence[object]) -> np.ndarray:
    """Where each of ``wanted`` stands in the sorted ``known``."""
    places = np.searchsorted(known, wanted)
    missing = np.flatnonzero(known[np.minimum(places, len(known) - 1)] != wanted) if len(known) else np.arange(1)
    if len(wanted) and missing.size:
        first = missing[0]
        more = f" ({missing.size} such annotations)" if missing.size > 1 else ""
        raise DataError(f"{file}: annotation {names[first]} is for {what} {wanted[first]}, which is not listed{more}")
    return places


class _Parser:
    """Takes what detection needs from each JSON object as it is parsed, and lets the rest go."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.files: list[str] = []
        self.image_ids = array("q")
        self.sizes = array("q")
        self.names = array("q")
        self.of_image = array("q")
        self.of_category = array("q")
        self.boxes = array("d")
        self.crowd = array("b")
        self.area = array("d")
        self.top: dict[str, Any] = {}

    def take(self, found: dict[str, Any]) -> dict[str, Any] | None:
        """`json`'s object hook, called for the innermost objects first."""
        try:
            if "bbox" in found or "category_id" in found:
                self._box(found)
                return None
            if "file_name" in found:
                self.image_ids.append(found["id"])
                self.sizes.extend((found["height"], found["width"]))
                self.files.append(str(found["file_name"]))
                return None
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            kind = "image" if "file_name" in found else "annotation"
            what = f"has no {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
            raise DataError(f"{self.file}: {kind} {found.get('id', 'without id')} {what}") from error
        return found

    def _box(self, found: dict[str, Any]) -> None:
        box = found["bbox"]
        if len(box) != 4:
            raise ValueError(f"its bbox has {len(box)} numbers, expected x, y, width, height")
        image, category = found["image_id"], found["category_id"]
        self.boxes.extend(box)
        self.names.append(found.get("id", -1))
        self.of_image.append(image)
        self.of_category.append(category)
        self.crowd.append(bool(found.get("iscrowd", 0)))
        self.area.append(found.get("area", float("nan")))

    def categories(self, file: Path) -> list[Category]:
        """By id."""
        try:
            found = [Category(id=int(c["id"]), name=str(c["name"])) for c in self.top["categories"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: its categories are malformed ({error})") from error
        if not found:
            raise DataError(f"{file}: there is no category in it, so nothing to detect")
        if len({c.id for c in found}) < len(found):
            raise DataError(f"{file}: two categories have the same id")
        return sorted(found, key=lambda c: c.id)


def _parse(file: Path) -> _Parser:
    parser = _Parser(file)
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            text = str(content, "utf-8")
        top = json.loads(text, object_hook=parser.take)
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such annotation file") from error
    except DataError:
        raise
    except (OSError, ValueError) as error:  # what is no JSON, no text, or empty
        raise DataError(f"{file}: can't be read as JSON ({error})") from error
    missing = [k for k in ("images", "annotations", "categories") if not isinstance(top, dict) or k not in top]
    if missing:
        raise DataError(f"{file}: not in COCO's instances format, it has no {', '.join(missing)}")
    parser.top = top
    return parser
