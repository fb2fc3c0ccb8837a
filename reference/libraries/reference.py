"""Reference implementations: a library's own build of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # facts are read at collection, which must not pay for importing torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A library whose implementation is taken as correct.

    ``build(name, *, num_classes=1000, in_channels=3, image_size=None, dropout=None, drop_path=None, **convention)``
    returns the library's module for the architecture called ``name``, on the default device (under
    ``torch.device("meta")`` without storage). A rate of None is the published one.
    It raises KeyError where the library has no such architecture.
    """

    library: str
    version: str
    build: Callable[..., nn.Module]
