"""Ids of the suites' tests, and the checks' names and order: `--resume` and comparisons with earlier runs need them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.tests.pinned.pinning import expect_as_recorded, output_of

SUBJECTS = (
    "--subject",
    "torchvision.models",
    "--subject",
    "timm.models",
    "--arch",
    "resnet18,efficientnet_b0,vit_b_16",
)
MATRIX = (
    "--benchmark",
    "--modes",
    "infer,train",
    "--batch-size",
    "1,auto",
    "--dtype",
    "float32,bfloat16",
    "--arch",
    "resnet18",
)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("collected_ids.txt", (), id="default"),
        pytest.param("collected_ids.txt", ("--benchmark",), id="benchmark"),
        pytest.param("collected_ids_of_libraries.txt", SUBJECTS, id="libraries"),
        pytest.param("collected_ids_of_matrix.txt", MATRIX, id="matrix"),
    ],
)
def test_collected_ids(name: str, options: tuple[str, ...], tmp_path: Path) -> None:
    command = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "suites/", *options]
    printed = output_of([*command, "--results", str(tmp_path)], tmp_path)
    ids = [line for line in printed.splitlines() if "::" in line]
    assert f"{len(ids)} tests collected" in printed or f"{len(ids)}/" in printed
    expect_as_recorded(name, "\n".join(ids) + "\n")
