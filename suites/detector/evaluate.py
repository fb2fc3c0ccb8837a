"""``python -m suites.detector.evaluate``: COCO's twelve figures of a trained detector, and pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from harness.process.hardware import device_named
from suites.detector.coco_metrics import FIGURES, Pair, average_precision, detections
from suites.detector.config import DetectorConfig, build
from suites.detector.data.annotations import Annotations, Category, DataError
from suites.detector.data.dataset import DetectionImages, read
from suites.detector.visualize import picture
from suites.training.checkpoint import CheckpointError, load

NONSENSE = 4


def restore(checkpoint: Path) -> tuple[nn.Module, list[Category]]:
    """The trained detector in eval mode, and the categories of its labels from 1. Raises CheckpointError."""
    found = load(checkpoint)
    try:
        facts: dict[str, Any] = found.facts["training"]
        settings = {n.removeprefix("network."): v for n, v in facts.items() if n.startswith("network.")}
        network = DetectorConfig(**{**settings, "anchors": tuple(settings["anchors"])})
        categories = [Category(**c) for c in facts["categories"]]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint}: not a checkpoint of a detector ({error})") from error
    model = build(network, 0)
    try:
        model.load_state_dict(dict(found.model))
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint}: weights of another network ({str(error).splitlines()[-1]})") from error
    return model.eval(), categories


def as_coco(pairs: Sequence[Pair], categories: Sequence[Category]) -> Iterator[dict[str, Any]]:
    """Detections in COCO's results format: boxes as x, y, width, height, and the data set's own category ids."""
    for found, target in pairs:
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
            x1, y1, x2, y2 = box.tolist()
            yield {
                "image_id": int(target["image_id"]),
                "category_id": categories[int(label) - 1].id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(score),
            }


def main(arguments: list[str] | None = None) -> int:
    """Parse, evaluate, print, write."""
    given = _parser().parse_args(arguments)
    console = Console()
    try:
        given.device = device_named(given.device)
        model, categories = restore(given.checkpoint)
        annotations = read(given.data, given.split, categories)
        _evaluate(model.to(given.device), annotations, given, console)
    except (ValueError, OSError) as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return NONSENSE
    return 0


def _evaluate(model: nn.Module, annotations: Annotations, given: argparse.Namespace, console: Console) -> None:
    if annotations.crowd.all():
        raise DataError(f"{annotations.name}: there is no box to find in it")
    images = DetectionImages(annotations)
    pairs: list[Pair] = []
    size = max(1, given.batch_size)
    for start in track(range(0, len(images), size), "detecting", console=console, transient=True):
        some = range(start, min(start + size, len(images)))
        pairs.extend(detections(model, images, some, device=torch.device(given.device), batch_size=size))
    figures = average_precision(pairs)
    table = Table(title=f"{given.checkpoint}: {len(images)} images of {annotations.name}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, meaning in FIGURES.items():
        table.add_row(meaning, "none annotated" if figures[name] < 0 else f"{figures[name]:.3f}")
    console.print(table)
    if given.detections:
        given.detections.parent.mkdir(parents=True, exist_ok=True)
        given.detections.write_text(json.dumps(list(as_coco(pairs, annotations.categories))))
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
        for index in range(min(given.count, len(images))):
            name = f"{annotations.files[index].stem}.png"
            picture(images, index, pairs[index]).save(given.pictures / name)
        console.print(f"pictures: {given.pictures}", markup=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m suites.detector.evaluate", description=description)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="best.safetensors or last.safetensors of a training")
    add("--data", required=True, metavar="coco:DIR|voc:DIR", help="a folder laid out as COCO 2017 or Pascal VOC")
    add("--split", choices=("train", "val"), default="val", help="default val")
    add("--pictures", type=Path, metavar="DIR", help="write images with annotated and detected boxes")
    add("--count", type=int, default=8, metavar="N", help="how many of them (default 8)")
    add("--detections", type=Path, metavar="FILE", help="write all detections in COCO's results format")
    add("--batch-size", type=int, default=4, metavar="N", help="images at a time (default 4)")
    add("--device", default="cpu", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default cpu)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
