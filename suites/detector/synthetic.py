"""``python -m suites.detector.synthetic``: coloured shapes of several scales on real pictures, as COCO or Pascal VOC.

The pictures are those that scikit-image brings. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from suites.detector.data.annotations import Category, DataError

PICTURES = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "rocket", "retina")
SHAPES = (
    Category(id=2, name="disc"),
    Category(id=3, name="square"),
    Category(id=7, name="triangle"),
    Category(id=11, name="cross"),
)
"""Their ids have gaps, as COCO's have."""
SMALLEST, LARGEST = 0.08, 0.5
"""Sides of shapes, as shares of the image's."""
MOST = 6
OVERLAP = 0.2
"""Share of the smaller of two boxes that the other may cover."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One drawn shape; ``box`` are whole pixels, x1 y1 x2 y2, the last row and column outside."""

    category: Category
    box: tuple[int, int, int, int]
    crowd: bool


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and what was drawn on it."""

    image: Image.Image
    shapes: tuple[Shape, ...]


def scenes(count: int, side: int, seed: int) -> Iterator[Scene]:
    """``count`` scenes of ``side`` pixels. One in twenty has no shape; one shape in fifty is marked a crowd."""
    pictures = [_picture(name, side) for name in PICTURES]
    for number in range(count):
        yield _scene(pictures, side, np.random.default_rng([seed, number]))


def write(folder: Path, layout: str, *, train: int = 400, val: int = 100, side: int = 160, seed: int = 0) -> None:
    """Write both splits as ``layout``: ``coco`` or ``voc``."""
    if side < 32 or train < 1 or val < 1:
        raise DataError(f"side={side}, train={train}, val={val}: expected at least 32 pixels and 1 image each")
    writer = {"coco": _write_coco, "voc": _write_voc}[layout]
    for place, (split, count) in enumerate((("train", train), ("val", val))):
        writer(folder, split, list(scenes(count, side, 2 * seed + place)))


def _picture(name: str, side: int) -> NDArray[np.uint8]:
    try:
        import skimage.data
    except ImportError as error:
        raise DataError("synthetic data need scikit-image (the test extra)") from error
    found = sorted(Path(skimage.data.__file__).parent.glob(f"{name}.*"))
    if not found:
        raise DataError(f"scikit-image brings no picture {name}")
    with Image.open(found[0]) as image:
        whole = image.convert("RGB")
    scale = max(1.0, 2 * side / min(whole.size))
    return np.asarray(whole.resize((math.ceil(whole.width * scale), math.ceil(whole.height * scale))))


def _scene(pictures: list[NDArray[np.uint8]], side: int, random: np.random.Generator) -> Scene:
    picture = pictures[random.integers(len(pictures))]
    top, left = (random.integers(picture.shape[axis] - side + 1) for axis in (0, 1))
    image = Image.fromarray(picture[top : top + side, left : left + side].copy())
    draw = ImageDraw.Draw(image)
    shapes: list[Shape] = []
    wanted = 0 if random.random() < 0.05 else int(random.integers(1, MOST + 1))
    for _ in range(4 * wanted):
        if len(shapes) == wanted:
            break
        size = round(side * math.exp(random.uniform(math.log(SMALLEST), math.log(LARGEST))))
        x, y = (int(random.integers(side - size + 1)) for _ in range(2))
        box = (x, y, x + size, y + size)
        category = SHAPES[random.integers(len(SHAPES))]
        levels = [int(random.integers(180, 256)), int(random.integers(256)), 0]
        colour = tuple(int(c) for c in random.permutation(levels))
        crowd = bool(random.random() < 0.02)
        if any(_covered(box, other.box) > OVERLAP for other in shapes):
            continue
        _draw(draw, category.name, box, colour)
        shapes.append(Shape(category=category, box=box, crowd=crowd))
    return Scene(image=image, shapes=tuple(shapes))


def _covered(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0, width) * max(0, height) / smaller


def _draw(draw: ImageDraw.ImageDraw, name: str, box: tuple[int, int, int, int], colour: tuple[int, ...]) -> None:
    x1, y1, x2, y2 = box[0], box[1], box[2] - 1, box[3] - 1  # Pillow draws the last pixel too
    if name == "disc":
        draw.ellipse((x1, y1, x2, y2), fill=colour)
    elif name == "square":
        draw.rectangle((x1, y1, x2, y2), fill=colour)
    elif name == "triangle":
        draw.polygon([(x1, y2), (x2, y2), ((x1 + x2) // 2, y1)], fill=colour)
    else:
        third = (x2 - x1) // 3
        draw.rectangle((x1 + third, y1, x2 - third, y2), fill=colour)
        draw.rectangle((x1, y1 + third, x2, y2 - third), fill=colour)


def _write_coco(folder: Path, split: str, made: list[Scene]) -> None:
    images = folder / f"{split}2017"
    images.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    listed: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, scene in enumerate(made, 1):
        name = f"{number:012d}.jpg"
        scene.image.save(images / name, quality=90)
        width, height = scene.image.size
        listed.append({"id": number, "file_name": name, "width": width, "height": height})
        for shape in scene.shapes:
            x1, y1, x2, y2 = shape.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": shape.category.id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(shape.crowd),
                }
            )
    categories = [{"id": c.id, "name": c.name, "supercategory": "shape"} for c in SHAPES]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def _write_voc(folder: Path, split: str, made: list[Scene]) -> None:
    root = folder / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True, exist_ok=True)
    stems = []
    for number, scene in enumerate(made, 1):
        stem = f"{split}_{number:06d}"
        stems.append(stem)
        scene.image.save(root / "JPEGImages" / f"{stem}.jpg", quality=90)
        ElementTree(_xml(scene, stem)).write(root / "Annotations" / f"{stem}.xml")
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def _xml(scene: Scene, stem: str) -> Element:
    root = Element("annotation")
    SubElement(root, "filename").text = f"{stem}.jpg"
    size = SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (*scene.image.size, 3), strict=True):
        SubElement(size, tag).text = str(value)
    for shape in scene.shapes:
        thing = SubElement(root, "object")
        SubElement(thing, "name").text = shape.category.name
        SubElement(thing, "difficult").text = str(int(shape.crowd))
        box = SubElement(thing, "bndbox")
        x1, y1, x2, y2 = shape.box
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True):
            SubElement(box, tag).text = str(value)
    return root


def main(arguments: list[str] | None = None) -> int:
    """Parse and write."""
    parser = argparse.ArgumentParser(prog="python -m suites.detector.synthetic", description=(__doc__ or "")[:120])
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--format", choices=("coco", "voc"), default="coco", help="layout (default coco)")
    add("--train", type=int, default=400, metavar="N", help="training images (default 400)")
    add("--val", type=int, default=100, metavar="N", help="validation images (default 100)")
    add("--side", type=int, default=160, metavar="PIXELS", help="side of the images (default 160)")
    add("--seed", type=int, default=0, metavar="N", help="other images (default 0)")
    given = parser.parse_args(arguments)
    try:
        if given.seed < 0:
            raise DataError(f"--seed {given.seed}: expected 0 or more")
        write(given.out, given.format, train=given.train, val=given.val, side=given.side, seed=given.seed)
    except (DataError, OSError) as error:
        print(error)
        return 4
    print(f"{given.train} + {given.val} images: --data {given.format}:{given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
