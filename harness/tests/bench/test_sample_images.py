from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from harness.bench import sample_images as module
from harness.bench.sample_images import MEAN, STD, photographs


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    module._pixels.cache_clear()
    yield
    module._pixels.cache_clear()


@pytest.mark.parametrize("side", [33, 64])
def test_two_normalised_squares(side: int) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL")
    images = photographs(side)
    assert images is not None
    assert images.shape == (2, 3, side, side)
    assert images.dtype is torch.float64
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    pixels = images * std + mean
    assert float(pixels.min()) >= -1e-6
    assert float(pixels.max()) <= 1 + 1e-6
    assert float(pixels.std()) > 0.1
    assert not torch.allclose(images[0], images[1])


def test_a_caller_may_write_into_what_it_got() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL")
    first, again = photographs(32), photographs(32)
    assert first is not None
    assert again is not None
    first.zero_()
    assert bool(again.any())


@pytest.mark.parametrize("missing", ["sklearn", "PIL"])
@pytest.mark.usefixtures("nothing_kept")
def test_none_without_the_package(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    assert photographs(32) is None
