"""Pascal VOC 2007 and 2012 as they lie on disk, found and parsed through torchvision's `VOCDetection`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError, parse

import numpy as np
from torchvision.datasets import VOCDetection

from suites.detector.data.annotations import Annotations, Boxes, Category, DataError, arranged

YEARS = ("2007", "2012")
NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def read_voc(folder: Path, split: str, categories: Sequence[Category] | None = None) -> Annotations:
    """The ``split`` (``train`` or ``val``) of every year under ``folder/VOCdevkit``.

    Labels follow the alphabet, all twenty names of VOC where no other name is there. Objects marked difficult are
    treated as COCO's crowds are: not trained on, and neither wanted nor wrong when evaluated. Raises DataError.
    """
    years = [year for year in YEARS if (folder / "VOCdevkit" / f"VOC{year}").is_dir()]
    if not years:
        raise DataError(f"{folder}: expected VOCdevkit/VOC2007 or VOCdevkit/VOC2012 in it")
    files: list[Path] = []
    sizes: list[tuple[int, int]] = []
    found: list[tuple[int, str, tuple[float, ...], bool]] = []
    for year in years:
        try:
            listed = VOCDetection(str(folder), year=year, image_set=split)
        except FileNotFoundError as error:
            raise DataError(f"{error.filename}: there is no such list of images") from error
        for image, annotation in zip(listed.images, listed.annotations, strict=True):
            tree = _tree(Path(annotation), Path(image))
            sizes.append((_number(tree["size"], "height", annotation), _number(tree["size"], "width", annotation)))
            found.extend((len(files), *thing) for thing in _objects(tree, annotation))
            files.append(Path(image))
    known = list(categories) if categories is not None else _categories({name for _, name, _, _ in found})
    label = {category.name: place for place, category in enumerate(known, 1)}
    for place, name, _, _ in found:
        if name not in label:
            raise DataError(f"{files[place].stem}.xml: has a {name}, which is none of the categories trained on")
    return arranged(
        f"{folder / 'VOCdevkit'} ({split})",
        files=files,
        ids=range(1, len(files) + 1),
        sizes=np.asarray(sizes, dtype=np.int64).reshape(-1, 2),
        categories=known,
        boxes=Boxes(
            image=np.asarray([f[0] for f in found], dtype=np.int64),
            corners=np.asarray([f[2] for f in found], dtype=np.float64).reshape(-1, 4),
            label=np.asarray([label[f[1]] for f in found], dtype=np.int64),
            crowd=np.asarray([f[3] for f in found], dtype=np.bool_),
            area=np.full(len(found), np.nan),
            names=[f"{files[f[0]].stem}.xml, {f[1]}" for f in found],
        ),
    )


def _categories(names: set[str]) -> list[Category]:
    listed = NAMES if names <= set(NAMES) and names else sorted(names)
    return [Category(id=number, name=name) for number, name in enumerate(listed, 1)]


def _tree(file: Path, image: Path) -> dict[str, Any]:
    try:
        tree = VOCDetection.parse_voc_xml(parse(file).getroot())["annotation"]
        tree["size"]["width"]
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such annotation file") from error
    except (ParseError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not an annotation of VOC ({type(error).__name__}: {error})") from error
    named = tree.get("filename")
    if isinstance(named, str) and named and Path(named).stem != image.stem:
        raise DataError(f"{file}: is for {named}, expected {image.name}")
    return dict(tree)


def _objects(tree: dict[str, Any], file: str) -> Iterator[tuple[str, tuple[float, ...], bool]]:
    for thing in tree.get("object", []):
        try:
            box = thing["bndbox"]
            x1, y1, x2, y2 = (float(box[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            # Pixels are counted from 1, and the last one belongs to the box.
            yield thing["name"], (x1 - 1, y1 - 1, x2, y2), thing.get("difficult", "0") == "1"
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: an object is malformed ({type(error).__name__}: {error})") from error


def _number(size: dict[str, str], key: str, file: str) -> int:
    try:
        return int(size[key])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: its size is malformed ({type(error).__name__}: {error})") from error
