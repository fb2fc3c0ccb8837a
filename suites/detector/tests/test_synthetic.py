"""The synthetic data: reproducible, exact boxes, both layouts alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from suites.detector.data.annotations import DataError
from suites.detector.data.dataset import read, verify
from suites.detector.synthetic import LARGEST, MOST, OVERLAP, SMALLEST, main, scenes, write


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write(tmp_path / name, "coco", train=3, val=2, side=48, seed=seed)
    files = {name: [f.read_bytes() for f in sorted((tmp_path / name).rglob("*.*"))] for name in ("one", "two", "three")}
    assert files["one"] == files["two"]
    assert all(one != three for one, three in zip(files["one"], files["three"], strict=True))


def test_training_and_validation_images_differ() -> None:
    first, second = (np.asarray(next(scenes(1, 48, seed)).image) for seed in (0, 1))
    assert (first != second).any()


def test_a_box_holds_its_shape_and_not_a_pixel_more() -> None:
    for scene in scenes(30, 128, 0):
        pixels = np.asarray(scene.image).astype(int)
        for shape in scene.shapes:
            x1, y1, x2, y2 = shape.box
            assert SMALLEST * 128 - 1 <= x2 - x1 <= LARGEST * 128 + 1
            assert 0 <= x1 < x2 <= 128
            assert 0 <= y1 < y2 <= 128
        if len(scene.shapes) == 1:
            x1, y1, x2, y2 = scene.shapes[0].box
            colour = pixels[y2 - 1, x1 + (x2 - x1) // 2]
            rows, columns = np.nonzero((pixels == colour).all(axis=2))
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)


def test_some_images_have_no_shape_and_some_have_many() -> None:
    counts = [len(scene.shapes) for scene in scenes(80, 64, 0)]
    assert min(counts) == 0
    assert 3 < max(counts) <= MOST
    assert 0 < OVERLAP < 1


def test_both_layouts_hold_the_same_boxes(tmp_path: Path) -> None:
    found = {}
    for layout in ("coco", "voc"):
        write(tmp_path / layout, layout, train=6, val=2, side=64)
        found[layout] = read(f"{layout}:{tmp_path / layout}", "train")
        verify(found[layout], decode=True)
    coco, voc = found["coco"], found["voc"]
    assert (coco.boxes == voc.boxes).all()
    assert (coco.crowd == voc.crowd).all()
    assert [coco.category_of(n).name for n in coco.labels] == [voc.category_of(n).name for n in voc.labels]


def test_the_command_names_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--train", "2", "--val", "1", "--side", "40"]) == 0
    assert f"coco:{tmp_path}" in capsys.readouterr().out
    assert main(["--out", str(tmp_path), "--side", "8"]) == 4
    with pytest.raises(DataError, match="at least 32 pixels"):
        write(tmp_path, "voc", side=8)
