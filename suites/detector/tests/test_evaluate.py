"""Evaluation: COCO's figures from detections that are known to be right or wrong, and what the command writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from suites.detector import evaluate
from suites.detector.coco_metrics import FIGURES, average_precision, detections
from suites.detector.data.dataset import DetectionImages, read
from suites.detector.synthetic import write
from suites.detector.tests.test_train import training
from suites.detector.visualize import picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shapes")
    write(made, "coco", train=8, val=6, side=64)
    return made


class Knowing(nn.Module):
    """Finds just what is annotated; ``shift`` moves its boxes, in shares of their sides."""

    def __init__(self, images: DetectionImages, shift: float = 0.0) -> None:
        super().__init__()
        self.images, self.shift, self.at = images, shift, 0

    def forward(self, batch: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in batch:
            given, target = self.images[self.at]
            assert torch.equal(given, image)
            self.at += 1
            boxes = target["boxes"]
            found.append(
                {
                    "boxes": boxes + self.shift * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2),
                    "labels": target["labels"],
                    "scores": torch.full((len(boxes),), 0.9),
                }
            )
        return found


@pytest.mark.parametrize(("shift", "fifty", "seventy_five"), [(0.0, 1.0, 1.0), (0.1, 1.0, 0.0), (0.5, 0.0, 0.0)])
def test_figures_follow_the_overlap(shift: float, fifty: float, seventy_five: float, folder: Path) -> None:
    images = DetectionImages(read(f"coco:{folder}", "val"))
    pairs = detections(Knowing(images, shift), images, range(6), device=torch.device("cpu"), batch_size=4)
    figures = average_precision(pairs)
    assert list(figures) == list(FIGURES)
    assert len(figures) == 12
    # A shift by s of both sides leaves an overlap of (1 - s)^2 / (2 - (1 - s)^2): 0.68 for 0.1, 0.14 for 0.5.
    assert figures["map_50"] == pytest.approx(fifty)
    assert figures["map_75"] == pytest.approx(seventy_five)
    assert figures["map_large"] == -1, "no shape of 64 pixel images is large"


def test_crowds_are_neither_wanted_nor_wrong() -> None:
    box = {"boxes": torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60]]), "labels": torch.tensor([1, 1])}
    target = {**box, "iscrowd": torch.tensor([0, 1]), "area": torch.tensor([400.0, 900.0])}
    for count in (1, 2):
        found = {"boxes": box["boxes"][:count], "labels": box["labels"][:count], "scores": torch.ones(count)}
        assert average_precision([(found, target)])["map"] == pytest.approx(1.0)


def test_training_mode_is_left_as_it_was(folder: Path) -> None:
    images = DetectionImages(read(f"coco:{folder}", "val"))
    model = Knowing(images)
    model.train()
    detections(model, images, [0], device=torch.device("cpu"))
    assert model.training


def test_the_command_prints_twelve_figures_and_writes_pictures_and_results(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = training(folder, tmp_path, epochs=1).save()
    common = [str(checkpoint), "--data", f"coco:{folder}"]
    results = tmp_path / "detections.json"
    assert (
        evaluate.main([*common, "--pictures", str(tmp_path / "p"), "--count", "2", "--detections", str(results)]) == 0
    )
    printed = capsys.readouterr().out
    assert all(meaning in printed for meaning in FIGURES.values())
    pictures = sorted((tmp_path / "p").iterdir())
    assert len(pictures) == 2
    with Image.open(pictures[0]) as image:
        assert image.size == (64, 64)
    found: list[dict[str, Any]] = json.loads(results.read_text())
    assert {row["category_id"] for row in found} <= {2, 3, 7, 11}
    assert all(row["bbox"][2] >= 0 for row in found)


def test_the_pictures_show_annotated_and_found_boxes(folder: Path) -> None:
    images = DetectionImages(read(f"coco:{folder}", "val"))
    index = next(n for n in range(6) if len(images[n][1]["boxes"]))
    model = Knowing(images)
    model.at = index
    pair = detections(model, images, [index], device=torch.device("cpu"))[0]
    colours = picture(images, index, pair).getcolors(64 * 64)
    assert colours is not None
    assert (255, 165, 0) in {colour for _, colour in colours}


def test_what_is_no_checkpoint_of_a_detector_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    for content, message in ((None, "there is no such checkpoint"), (b"{}", "not a checkpoint of a training")):
        if content is not None:
            other.write_bytes(content)
        assert evaluate.main([str(other), "--data", f"coco:{folder}"]) == 4
        assert message in capsys.readouterr().out
