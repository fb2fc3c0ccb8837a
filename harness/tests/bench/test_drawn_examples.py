from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bench.bench import Bench
from harness.bench.drawn_examples import describe_failure, examples, forward_line
from harness.subjects.loading import given_subjects
from harness.tests.tiny import bench_of, family

MODELS = """
from torch import nn


def tiny(num_classes=1000, in_channels=3):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


@pytest.mark.parametrize(("name", "device"), [("plain_models.py", "cpu"), ("models-v2.py", "meta")])
def test_the_line_runs_as_it_is_printed(name: str, device: str, tmp_path: Path) -> None:
    path = tmp_path / "a folder" / name
    path.parent.mkdir()
    path.write_text(MODELS)
    (subject,) = given_subjects(str(path), family(), ())
    line = forward_line(Bench(subject), (2, 5, 9, 7), keywords="num_classes=10, in_channels=5", device=device)
    assert "\n" not in line
    line = line.replace("python", f"'{sys.executable}'", 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.stdout == "torch.Size([2, 10])\n", done.stderr


def test_the_smallest_example_is_the_one_that_is_raised() -> None:
    @examples(1)
    @given(st.integers(0, 1000))
    def fails(number: int) -> None:
        assert number < 10, f"{number} is too large"

    with pytest.raises(AssertionError, match=r"^10 is too large"):
        describe_failure(bench_of(lambda: None), fails)


def test_one_of_several_failures_is_raised() -> None:
    @examples(1)
    @given(st.integers(0, 1000))
    def fails(number: int) -> None:
        if number > 900:
            raise ValueError("over")
        assert number < 10, f"{number} is too large"

    with pytest.raises((AssertionError, ValueError)) as caught:
        describe_failure(bench_of(lambda: None), fails)
    assert not isinstance(caught.value, BaseExceptionGroup)
