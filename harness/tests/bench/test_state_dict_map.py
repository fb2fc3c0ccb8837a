"""A subject's own map may use the names of any reference library."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench.bench import Bench
from harness.checks.registry import find_check
from harness.errors import SubjectError
from harness.subjects.loading import family_of, given_subjects

MODELS = """
import torchvision

def vit_tiny_8(num_classes=1000, image_size=32):
    return torchvision.models.VisionTransformer(image_size, 8, 4, 4, 64, 256, num_classes=num_classes)

def vit_tiny_8_state_dict_map():
    return {names}
"""


@pytest.mark.parametrize(
    "names",
    [
        {"heads.head.weight": "heads.head.weight"},
        {"head.weight": "heads.head.weight", "blocks.1.mlp.fc1.bias": "encoder.layers.encoder_layer_1.mlp.0.bias"},
    ],
)
def test_names_of_either_library(names: dict[str, str], tmp_path: Path) -> None:
    find_check("parity_eval", family_of("vit"))(_bench(names, tmp_path))


def test_unknown_names_are_said(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"'classifier\.weight'"):
        find_check("parity_eval", family_of("vit"))(_bench({"classifier.weight": "heads.head.weight"}, tmp_path))


def _bench(names: dict[str, str], folder: Path) -> Bench:
    path = folder / "mapped_models.py"
    path.write_text(MODELS.format(names=names))
    (subject,) = given_subjects(str(path), family_of("vit"), ())
    return Bench(subject)
