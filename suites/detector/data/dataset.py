"""Images and targets for a detector, from ``coco:DIR`` or ``voc:DIR``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from suites.detector.data.annotations import Annotations, Category, DataError
from suites.detector.data.coco import read_coco
from suites.detector.data.voc import read_voc

Target = dict[str, Tensor]
Sample = tuple[Tensor, Target]
READERS: dict[str, Callable[[Path, str, Sequence[Category] | None], Annotations]] = {"coco": read_coco, "voc": read_voc}
DECODED = 5000
"""Data sets of up to so many images are decoded before the first step; of larger ones only ends and sizes are read."""


def read(spec: str, split: str, categories: Sequence[Category] | None = None) -> Annotations:
    """``coco:DIR`` or ``voc:DIR``; ``split`` is ``train`` or ``val``. Raises DataError."""
    kind, _, folder = spec.partition(":")
    if kind not in READERS or not folder:
        raise DataError(f"--data {spec}: known: coco:DIR, voc:DIR")
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: there is no such folder")
    return READERS[kind](Path(folder), split, categories)


class DetectionImages(Dataset[Sample]):
    """One image (3, height, width) from 0 to 1 with its target: ``boxes``, ``labels``, ``area``, ``iscrowd``,
    ``image_id``. With ``crowds=False``, for training, crowds are left out; images without boxes stay.

    An image that is missing, can't be decoded, or has another size than annotated raises DataError with its name.
    """

    def __init__(self, annotations: Annotations, *, crowds: bool = True) -> None:
        self.annotations, self.crowds = annotations, crowds

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        a = self.annotations
        image = v2.functional.pil_to_tensor(decoded(a.files[index]))
        found = (image.shape[1], image.shape[2])
        if found != tuple(a.sizes[index]):
            height, width = a.sizes[index]
            raise DataError(f"{a.files[index]}: is {found[1]}x{found[0]} pixels, annotated as {width}x{height}")
        rows = slice(int(a.starts[index]), int(a.starts[index + 1]))
        target = {
            "boxes": torch.from_numpy(a.boxes[rows]),
            "labels": torch.from_numpy(a.labels[rows]),
            "area": torch.from_numpy(a.area[rows]),
            "iscrowd": torch.from_numpy(a.crowd[rows]).long(),
        }
        if not self.crowds:
            single = target["iscrowd"] == 0
            target = {name: values[single] for name, values in target.items()}
        return v2.functional.to_dtype(image, torch.float32, scale=True), {
            **target,
            "image_id": torch.tensor(int(a.ids[index])),
        }


class Augmented(Dataset[Sample]):
    """Flipped at random, each image by a draw that depends on ``seed``, ``epoch`` and the image alone: so a training is
    the same with any number of workers and processes, and after a resume."""

    def __init__(self, images: Dataset[Sample], seed: int, epoch: int) -> None:
        self.images, self.seed, self.epoch = images, seed, epoch
        self.transform = v2.RandomHorizontalFlip()

    def __getitem__(self, index: int) -> Sample:
        image, target = self.images[index]
        boxes: Any = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=image.shape[-2:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed(self.seed, self.epoch, index))
            flipped, turned = self.transform(tv_tensors.Image(image), boxes)
        return flipped.as_subclass(Tensor), {**target, "boxes": turned.as_subclass(Tensor)}


def mixed(*numbers: int) -> int:
    """One seed from several numbers, different for each combination met in practice."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**62)
    return seed


def collate(samples: Iterable[Sample]) -> tuple[list[Tensor], list[Target]]:
    """Lists, since images differ in size."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def decoded(file: Path) -> Image.Image:
    """The picture in three channels. Raises DataError naming the file."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such image") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's decoders raise each of these
        raise DataError(f"{file}: can't be read as an image ({str(error).splitlines()[0]})") from error


def verify(annotations: Annotations, *, decode: bool | None = None) -> None:
    """Raise DataError naming images that are missing, cut short or of another size than annotated.

    With ``decode`` every image is decoded; without it only its header and its end are read, which finds files that
    are missing, empty, no image or cut short. By default it depends on how many there are.
    """
    whole = len(annotations) <= DECODED if decode is None else decode
    images = DetectionImages(annotations)

    def fault(index: int) -> str:
        try:
            if whole:
                images[index]
            else:
                _check_ends(annotations, index)
        except DataError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        faults = [f for f in pool.map(fault, range(len(annotations))) if f]
    if faults:
        raise DataError(faults[0] + (f" ({len(faults)} images have a fault)" if len(faults) > 1 else ""))


def _check_ends(annotations: Annotations, index: int) -> None:
    """Decodes only what doesn't end as its format does."""
    file = annotations.files[index]
    height, width = annotations.sizes[index]
    try:
        with Image.open(file) as image:
            kind, size = image.format, image.size
        with file.open("rb") as opened:
            opened.seek(-min(64, file.stat().st_size), os.SEEK_END)
            end = opened.read()
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such image") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{file}: can't be read as an image ({str(error).splitlines()[0]})") from error
    if (kind == "JPEG" and b"\xff\xd9" not in end) or (kind == "PNG" and b"IEND" not in end):
        decoded(file)  # cut short, or whole with something behind its end
    if size != (width, height):
        raise DataError(f"{file}: is {size[0]}x{size[1]} pixels, annotated as {width}x{height}")
