"""The models that a library lists."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

PUBLISHED_SIZE = 224
"""Side in pixels where the library does not state one."""


@cache
def listed(module: str) -> tuple[tuple[str, int], ...]:
    """(name, side of its images in pixels) of every classifier that ``module`` lists, in the library's order.

    Empty for a module that keeps no list. ``module.<name>(num_classes=...)`` builds each of them.
    """
    makers = {"timm.models": _timm, "torchvision.models": _torchvision}
    return tuple(makers[module]()) if module in makers else ()


def _timm() -> Iterator[tuple[str, int]]:
    import timm

    for name in timm.list_models():
        configuration = timm.models.get_pretrained_cfg(name)
        yield name, configuration.input_size[-1] if configuration is not None else PUBLISHED_SIZE


def _torchvision() -> Iterator[tuple[str, int]]:
    from torchvision import models

    for name in models.list_models(module=models):
        weights = list(models.get_model_weights(name))
        side = weights[-1].transforms().crop_size[0] if weights else PUBLISHED_SIZE
        yield name, int(side)
