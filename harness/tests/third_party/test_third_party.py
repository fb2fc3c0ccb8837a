"""What is found of third-party code, each finding checked against its source (see the table in the README)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from harness.bench.bench import Bench
from harness.checks.registry import find_check
from harness.subjects.loading import family_of, given_subjects

FOLDER = Path(__file__).parent


def bench(library: str, family: str) -> Bench:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed (pip install -e '.[test]')")
    (subject,) = given_subjects(str(FOLDER / f"{library}_subject.py"), family_of(family), ())
    return Bench(subject)


def verdict(bench: Bench, check: str) -> str:
    try:
        find_check(check, bench.family)(bench)
    except AssertionError as error:
        return str(error)
    return ""


def test_vit_pytorch_has_no_qkv_bias_and_norms_around_the_patch_embedding() -> None:
    from vit_pytorch.vit import Attention

    subject = bench("vit_pytorch", "vit")
    assert "24,576 missing" in verdict(subject, "parameters")
    said = verdict(subject, "parity_eval")
    assert "to_patch_embedding.1.weight" in said
    assert "to_patch_embedding.3.weight" in said
    assert "in_proj_bias" in said
    assert Attention(8).to_qkv.bias is None  # its source agrees


def test_efficientnet_pytorch_pads_as_tensorflow_does() -> None:
    subject = bench("efficientnet_pytorch", "efficientnet")
    assert verdict(subject, "parameters") == ""
    said = verdict(subject, "parity_eval")
    assert "_conv_stem" in said
    assert "padding ((0, 1), (0, 1)) instead of (1, 1)" in said
    stem = subject.build(10)._conv_stem
    assert type(stem).__name__ == "Conv2dStaticSamePadding"  # its source agrees
