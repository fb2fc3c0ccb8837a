"""Names and shapes in the checkpoints that the two training commands write, and the keys of the facts beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open

from harness.tests.pinned.pinning import expect_as_recorded, output_of

DETECTOR = (
    *("--arch", "detector_resnet18", "--side", "64", "--width", "16", "--hidden", "32", "--roi-samples", "16"),
    *("--anchors", "8,16,32,48,64", "--warmup", "0", "--drops", "9", "--lr", "0.02", "--epochs", "1"),
)


def keys(value: Any) -> Any:
    """Names at every level; what they stand for is no part of the format, and a list has its first member's."""
    if isinstance(value, dict):
        return {name: keys(held) for name, held in value.items()}
    if isinstance(value, list):
        return [keys(held) for held in value[:1]]
    return type(value).__name__


def described(path: Path) -> str:
    """Of the optimizer's groups only what every version of torch keeps in them."""
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
        metadata = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
    for group in metadata["training"]["groups"]:
        for name in group.keys() - {"lr", "weight_decay", "params"}:
            del group[name]
    count = len(metadata["training"]["groups"])
    lines = [f"{name} {' '.join(map(str, shape))}".strip() for name, shape in shapes.items() if name != "generator"]
    assert "generator" in shapes  # as long as torch makes it
    return "\n".join([*lines, f"{count} groups", json.dumps(keys(metadata), indent=1)]) + "\n"


def test_transfer(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number, kind in enumerate(("dark", "light")):
            folder = tmp_path / "images" / split / kind
            folder.mkdir(parents=True)
            for each in range(2):
                Image.new("RGB", (32, 32), (90 + 100 * number + each,) * 3).save(folder / f"{each}.png")
    model = ("--model", "suites.vit.model:vit_tiny_8", "--head", "head", "--side", "32", "--batch-size", "2")
    command = ["-m", "suites.transfer", "--recipe", "two_learning_rates", "--epochs", "1", *model]
    output_of([*command, "--data", f"imagefolder:{tmp_path / 'images'}", "--results", str(tmp_path / "runs")], tmp_path)
    (checkpoint,) = (tmp_path / "runs").glob("*/two_learning_rates/last.safetensors")
    expect_as_recorded("checkpoints/transfer.txt", described(checkpoint))


def test_detector(tmp_path: Path) -> None:
    """It is what the evaluation reads, too."""
    made = tmp_path / "shapes"
    sizes = ("--train", "4", "--val", "2", "--side", "64")
    output_of(["-m", "suites.detector.synthetic", "--out", str(made), *sizes], tmp_path)
    where = ("--data", f"coco:{made}", "--results", str(tmp_path / "runs"))
    output_of(["-m", "suites.detector.train", *DETECTOR, "--batch-size", "2", *where], tmp_path)
    (checkpoint,) = (tmp_path / "runs").glob("*/**/last.safetensors")
    output_of(["-m", "suites.detector.evaluate", str(checkpoint), "--data", f"coco:{made}"], tmp_path)
    expect_as_recorded("checkpoints/detector.txt", described(checkpoint))
