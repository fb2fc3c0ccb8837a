"""Real weights come from the cache where it has them, and their absence is one line."""

from __future__ import annotations

import io
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from reference.weights import pretrained

B0 = "efficientnet_b0_rwightman-7f5810bc.pth"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_cached_weights_need_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    cache.mkdir()
    torch.save({"features.0.0.weight": torch.ones(2)}, cache / B0)
    found = pretrained.torchvision_imagenet("efficientnet_b0")
    assert found.state.keys() == {"features.0.0.weight"}
    assert found.mean == (0.485, 0.456, 0.406)


def test_no_cache_and_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **named: Any) -> None:
        assert named["timeout"] == pretrained.PATIENCE
        raise urllib.error.URLError("unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(
        pretrained.WeightsUnavailableError, match=r"efficientnet_b0, which belongs at .*: not in the cache"
    ):
        pretrained.torchvision_imagenet("efficientnet_b0")


def test_a_wrong_file_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda *given, **named: io.BytesIO(b"a page that says please log in")
    )
    with pytest.raises(pretrained.WeightsUnavailableError, match="another SHA-256"):
        pretrained.torchvision_imagenet("efficientnet_b0")
    assert list(cache.iterdir()) == []
