"""Images to fine-tune on: scikit-learn's digits, or a folder with one subfolder per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset, TensorDataset

EVERY = 4
"""Every fourth of the digits is for validation."""
MEAN, STD = 0.5, 0.5
"""What EfficientNet-Lite0's images are normalised to."""


class DataError(ValueError):
    """The data can't be trained on; the message is one line that says what is wrong and where."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training and validation images (3, side, side), normalised, with class numbers; and the names of the classes."""

    name: str
    train: Dataset[Any]
    validation: Dataset[Any]
    classes: tuple[str, ...]
    notices: tuple[str, ...] = ()


def load(spec: str, side: int, *, skip_corrupt: bool = False, augment: bool = False) -> Data:
    """``digits``, or ``imagefolder:DIR`` with ``DIR/train/<class>`` and ``DIR/val/<class>``. Raises DataError."""
    if spec == "digits":
        return digits(side)
    kind, _, folder = spec.partition(":")
    if kind != "imagefolder" or not folder:
        raise DataError(f"--data {spec}: known: digits, imagefolder:DIR")
    return image_folder(Path(folder), side, skip_corrupt=skip_corrupt, augment=augment)


def digits(side: int) -> Data:
    """1,797 handwritten digits of 8x8 px, enlarged to ``side``, grey in all channels; a fixed split, 1,347 to 450."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits: need scikit-learn (the test extra)") from error
    found = load_digits()
    grey = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    images = interpolate(grey, (side, side), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    images = ((images - MEAN) / STD).contiguous()
    labels = torch.tensor(found.target, dtype=torch.long)
    held_out = torch.arange(len(images)) % EVERY == 0
    return Data(
        name="digits",
        train=TensorDataset(images[~held_out], labels[~held_out]),
        validation=TensorDataset(images[held_out], labels[held_out]),
        classes=tuple(str(n) for n in range(10)),
    )


def image_folder(folder: Path, side: int, *, skip_corrupt: bool = False, augment: bool = False) -> Data:
    """torchvision's ImageFolder over ``train`` and ``val``, which must have the same classes.

    Every file is opened before training starts. Raises DataError for a missing or empty folder, an empty class, other
    classes in ``val``, and for files that can't be read, unless ``skip_corrupt`` leaves those out.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([MEAN] * 3, [STD] * 3)]
    plain = v2.Compose([v2.Resize((side, side), antialias=True), *end])
    drawn = v2.Compose(
        [v2.RandomResizedCrop((side, side), (0.5, 1.0), antialias=True), v2.RandomHorizontalFlip(), *end]
    )
    parts, notices = {}, []
    for name in ("train", "val"):
        path = folder / name
        classes = sorted(p.name for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
        if not classes:
            raise DataError(f"{path}: no such folder, or no subfolder per class in it")
        try:
            found = ImageFolder(str(path), transform=drawn if augment and name == "train" else plain)
        except FileNotFoundError as error:
            raise DataError(f"{path}: {str(error).splitlines()[0]}") from error
        corrupt = [file for file, _ in found.samples if not _readable(file)]
        if corrupt and not skip_corrupt:
            raise DataError(f"{_listed(corrupt)} can't be read as images; give --skip-corrupt to go on without")
        if corrupt:
            notices.append(f"left out, can't be read: {_listed(corrupt)}")
            unreadable = set(corrupt)
            found.samples = [s for s in found.samples if s[0] not in unreadable]
            found.targets = [label for _, label in found.samples]
        empty = [c for number, c in enumerate(found.classes) if number not in found.targets]
        if empty:
            raise DataError(f"{path}: no readable image in {', '.join(empty)}")
        parts[name] = found
    if parts["train"].classes != parts["val"].classes:
        odd = sorted(set(parts["train"].classes) ^ set(parts["val"].classes))
        raise DataError(f"{folder}: {', '.join(odd)} is in one of train and val only; expected the same classes")
    return Data(
        name=folder.name,
        train=parts["train"],
        validation=parts["val"],
        classes=tuple(parts["train"].classes),
        notices=tuple(notices),
    )


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Raise DataError where the network has another number of classes than the labels need."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise DataError(
            f"class {low if low < 0 else high} is out of range: the network has {logits.shape[1]} classes, from 0"
        )


def _readable(file: str) -> bool:
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.convert("RGB").load()
    except (OSError, SyntaxError, ValueError):  # Pillow's decoders raise each of these
        return False
    return True


def _listed(files: Sequence[str]) -> str:
    shown = ", ".join(files[:3])
    return f"{len(files)} files ({shown}{', ...' if len(files) > 3 else ''})" if len(files) > 1 else shown
