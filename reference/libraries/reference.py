"""What a reference implementation is: a library's own build of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # facts are read at collection, which must not pay for importing torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An implementation held to be right.

    ``build(name, *, num_classes=1000, in_channels=3, image_size=None, dropout=None, drop_path=None, **convention)``
    returns the library's module for the architecture called ``name``, on the default device (use
    ``torch.device("meta")`` around the call for a weightless one). A rate of None is the published one.
    It raises KeyError where the library has no such architecture.
    """

    library: str
    version: str
    build: Callable[..., nn.Module]
