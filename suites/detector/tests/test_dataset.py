"""Reading COCO and Pascal VOC folders: what is mapped, what is left out, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suites.detector.data.annotations import Category, DataError
from suites.detector.data.dataset import Augmented, DetectionImages, read, verify
from suites.detector.lr_schedule import Schedule
from suites.detector.synthetic import write


def coco(folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> str:
    """Two images of 40x30, three boxes, category ids with a gap; ``change`` edits the annotations."""
    content: dict[str, Any] = {
        "info": {"description": "made here"},
        "images": [
            {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
            {"id": 4, "file_name": "a.png", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 18, "bbox": [2, 3, 10, 20], "iscrowd": 0, "area": 150.5},
            {"id": 2, "image_id": 9, "category_id": 5, "bbox": [0, 0, 40, 30], "iscrowd": 1, "area": 900,
             "segmentation": {"counts": [0, 1200], "size": [30, 40]}},
            {"id": 3, "image_id": 9, "category_id": 5, "bbox": [5, 5, 8, 8], "segmentation": [[5, 5, 13, 5, 13, 13]]},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 5, "name": "aeroplane"}],
    }  # fmt: skip
    change(content)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "train2017").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (10, 20, 30)).save(folder / "train2017" / name)
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return f"coco:{folder}"


def test_coco_boxes_become_corners_and_ids_are_mapped_and_back(tmp_path: Path) -> None:
    found = read(coco(tmp_path), "train")
    assert found.categories == (Category(id=5, name="aeroplane"), Category(id=18, name="dog"))
    assert found.num_classes == 3
    images = DetectionImages(found)
    image, target = images[1]
    assert image.shape == (3, 30, 40)
    assert image.dtype == torch.float32
    assert image.amax() == pytest.approx(30 / 255)
    assert int(target["image_id"]) == 9
    assert target["boxes"].tolist() == [[2, 3, 12, 23], [0, 0, 40, 30], [5, 5, 13, 13]]
    assert target["labels"].tolist() == [2, 1, 1]
    assert target["iscrowd"].tolist() == [0, 1, 0]
    assert target["area"].tolist() == [150.5, 900, 64]
    assert [found.category_of(int(n)).id for n in target["labels"]] == [18, 5, 5]


def test_images_without_boxes_stay_and_crowds_are_not_trained_on(tmp_path: Path) -> None:
    images = DetectionImages(read(coco(tmp_path), "train"), crowds=False)
    assert len(images) == 2
    empty = images[0][1]
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].dtype == torch.int64
    assert images[1][1]["labels"].tolist() == [2, 1]


def test_degenerate_boxes_are_left_out_and_large_ones_cut_with_a_notice(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        boxes = ([2, 3, 0, 5], [50, 3, 10, 5], [30, 20, 20, 20], [4, 4, 5, -1])
        content["annotations"] = [
            {"id": n, "image_id": 4, "category_id": 5, "bbox": box} for n, box in enumerate(boxes)
        ]

    found = read(coco(tmp_path, change), "train")
    assert found.boxes.tolist() == [[30, 20, 40, 30]]
    assert len(found.notices) == 2
    assert "left out 3 boxes" in found.notices[0]
    assert "cut 1 boxes" in found.notices[1]


def _set(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(image_id=77), "annotation 1 is for image 77, which is not listed"),
        (_set(category_id=6), "annotation 1 is for category 6, which is not listed"),
        (_set(bbox=[float("nan"), 1, 2, 3]), "box 1 of b.png is .*nan.*: not finite numbers"),
        (_set(bbox=[1, 2, 3]), "annotation 1 is malformed .*3 numbers"),
        (_set(bbox=["x", 2, 3, 4]), "annotation 1 is malformed"),
        (lambda c: c["annotations"][0].pop("image_id"), "annotation 1 has no 'image_id'"),
        (lambda c: c["images"][0].pop("width"), "image 9 has no 'width'"),
        (lambda c: c["images"][0].update(width=0), "image b.png has width 0"),
        (lambda c: c["images"][0].update(id=4), "image id 4 is given twice"),
        (lambda c: c.update(categories=[]), "there is no category in it"),
        (lambda c: c.update(images=[], annotations=[]), "there is no image in it"),
        (lambda c: c.pop("annotations"), "it has no annotations"),
        (lambda c: c["categories"].append({"id": 5, "name": "again"}), "two categories have the same id"),
        (lambda c: c["categories"].append({"name": "lost"}), "categories are malformed"),
    ],
)
def test_bad_coco_annotations_are_named(change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as raised:
        read(coco(tmp_path, change), "train")
    assert "\n" not in str(raised.value)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        read(f"coco:{tmp_path / 'nowhere'}", "train")
    with pytest.raises(DataError, match="known: coco:DIR, voc:DIR"):
        read(str(tmp_path), "train")
    with pytest.raises(DataError, match=r"instances_val2017.json: there is no such annotation file"):
        read(coco(tmp_path), "val")
    for content in (b"", b"{", b"[]", b"\xff\xfe\x00"):
        (tmp_path / "annotations" / "instances_val2017.json").write_bytes(content)
        with pytest.raises(DataError, match=r"instances_val2017.json"):
            read(f"coco:{tmp_path}", "val")


@pytest.mark.parametrize("decode", [True, False])
def test_faulty_images_are_named_before_training(decode: bool, tmp_path: Path) -> None:
    found = read(coco(tmp_path), "train")
    verify(found, decode=decode)
    file = tmp_path / "train2017" / "b.png"
    content = file.read_bytes()
    for faulty, message in (
        (content[: len(content) // 2], "b.png"),
        (b"no picture", r"b.png: can't be read as an image"),
        (b"", r"b.png: can't be read as an image"),
    ):
        file.write_bytes(faulty)
        with pytest.raises(DataError, match=message):
            verify(found, decode=decode)
    Image.new("RGB", (30, 40)).save(file)
    with pytest.raises(DataError, match=r"b.png: is 30x40 pixels, annotated as 40x30"):
        verify(found, decode=decode)
    file.unlink()
    with pytest.raises(DataError, match=r"b.png: there is no such image"):
        verify(found, decode=decode)


def test_other_categories_in_validation_are_refused(tmp_path: Path) -> None:
    found = read(coco(tmp_path), "train")
    with pytest.raises(DataError, match=r"other categories than those trained on .*cat"):
        read(coco(tmp_path, lambda c: c["categories"].append({"id": 30, "name": "cat"})), "train", found.categories)


def test_voc_is_read_in_its_own_pixels_and_difficult_objects_count_as_crowds(tmp_path: Path) -> None:
    write(tmp_path, "voc", train=1, val=1, side=64)
    root = tmp_path / "VOCdevkit" / "VOC2012"
    file = root / "Annotations" / "train_000001.xml"
    thing = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"
    box = "<xmin>1</xmin><ymin>11</ymin><xmax>64</xmax><ymax>20</ymax>"
    start = "<annotation><filename>{}</filename><size><width>64</width><height>64</height></size>"
    file.write_text(
        start.format("train_000001.jpg")
        + thing.format("dog", 0, box)
        + thing.format("person", 1, box)
        + "</annotation>"
    )
    found = read(f"voc:{tmp_path}", "train")
    assert found.boxes.tolist() == [[0, 10, 64, 20]] * 2
    assert [found.category_of(int(n)).name for n in found.labels] == ["dog", "person"]
    assert found.num_classes == 21, "VOC's own names keep their places, whichever of them occur"
    assert found.crowd.tolist() == [False, True]
    for content, message in (
        (start.format("other.jpg") + "</annotation>", "is for other.jpg"),
        ("<annotation></annotation>", "not an annotation of VOC"),
        ("<annotation>", "not an annotation of VOC"),
        (start.format("") + "<object><name>dog</name></object></annotation>", "an object is malformed"),
        (start.format("") + thing.format("dog", 0, box.replace("11", "x")) + "</annotation>", "an object is malformed"),
        (start.format("") + thing.format("dog", 0, box.replace("11", "nan")) + "</annotation>", "not finite numbers"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=message):
            read(f"voc:{tmp_path}", "train")
    file.unlink()
    with pytest.raises(DataError, match=r"train_000001.xml: there is no such annotation file"):
        read(f"voc:{tmp_path}", "train")
    with pytest.raises(DataError, match=r"VOCdevkit/VOC2007"):
        read(f"voc:{root}", "train")
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(DataError, match=r"train.txt: there is no such list"):
        read(f"voc:{tmp_path}", "train")


def test_flips_depend_on_seed_epoch_and_image_only(tmp_path: Path) -> None:
    write(tmp_path, "coco", train=12, val=1, side=48)
    images = DetectionImages(read(f"coco:{tmp_path}", "train"))
    state = torch.get_rng_state()
    drawn = [[bool((Augmented(images, 0, e)[n][0] != images[n][0]).any()) for n in range(12)] for e in (0, 0, 1)]
    assert (torch.get_rng_state() == state).all()
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert 0 < sum(drawn[0]) < 12
    for index, flipped in enumerate(drawn[0]):
        boxes, turned = images[index][1]["boxes"], Augmented(images, 0, 0)[index][1]["boxes"]
        expected = torch.stack([48 - boxes[:, 2], boxes[:, 1], 48 - boxes[:, 0], boxes[:, 3]], 1) if flipped else boxes
        assert (turned == expected).all()


def test_the_rate_grows_with_the_batch_rises_and_drops() -> None:
    schedule = Schedule(base=0.02, batch=32, warmup=10, drops=(20, 30))
    assert [schedule.rate(n) for n in (10, 19, 20, 30)] == pytest.approx([0.04, 0.04, 0.004, 0.0004])
    rising = np.diff([schedule.rate(n) for n in range(11)])
    assert rising == pytest.approx(0.999 * 0.04 / 10)
    with pytest.raises(ValueError, match="expected a positive number"):
        Schedule(base=0.0, batch=1)
