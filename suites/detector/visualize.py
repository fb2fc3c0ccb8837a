"""Pictures of what a detector finds, beside what is annotated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes

from suites.detector.coco_metrics import Pair, detections
from suites.detector.data.dataset import DetectionImages

SURE = 0.5
"""Score from which a detection is drawn."""
SHOWN = 4
LONGEST = 480
"""Pixels of the longer side in a report."""


def picture(images: DetectionImages, index: int, pair: Pair) -> Image.Image:
    """One image with its annotated boxes in white and the detections of at least half a score in orange, named."""
    image, _ = images[index]
    found, target = pair
    names = [category.name for category in images.annotations.categories]
    drawn = image
    if len(target["boxes"]):
        drawn = draw_bounding_boxes(drawn, target["boxes"], colors="white", width=1)
    sure = found["scores"] >= SURE
    if sure.any():
        labels = [
            f"{names[int(label) - 1]} {float(score):.2f}"
            for label, score in zip(found["labels"][sure], found["scores"][sure], strict=True)
        ]
        drawn = draw_bounding_boxes(drawn, found["boxes"][sure], labels=labels, colors="orange", width=2)
    shown: Image.Image = to_pil_image(drawn)
    return shown


def write_pictures(
    folder: Path, name: str, model: nn.Module, images: DetectionImages, *, device: torch.device | str = "cpu"
) -> list[Path]:
    """The first `SHOWN` images with what ``model`` finds, as JPEG files in ``folder``, and what each of them shows in
    ``captions.json`` there, beside those that are in it already."""
    folder.mkdir(parents=True, exist_ok=True)
    indices: Sequence[int] = range(min(SHOWN, len(images)))
    pairs = detections(model, images, indices, device=torch.device(device))
    captions = folder / "captions.json"
    said = json.loads(captions.read_text(encoding="utf-8")) if captions.is_file() else {}
    written = []
    for index, pair in zip(indices, pairs, strict=True):
        shown = picture(images, index, pair).convert("RGB")
        shown.thumbnail((LONGEST, LONGEST))
        stem = images.annotations.files[index].stem
        path = folder / f"{name}-{index}.jpg"
        shown.save(path, quality=85)
        sure = int((pair[0]["scores"] >= SURE).sum())
        there = len(pair[1]["boxes"])
        said[path.name] = f"{name} on {stem}: {sure} found with a score of {SURE:g} or more, {there} annotated"
        written.append(path)
    captions.write_text(json.dumps(said, indent=1), encoding="utf-8")
    return written
