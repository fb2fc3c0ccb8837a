"""Weightless models, built without the work that would go into their initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
FILLS = frozenset((aten.normal_.default, aten.uniform_.default, aten.zero_.default, aten.fill_.Scalar))
"""What initialisers come down to. torch composes the first two in Python for tensors without storage."""


class SkipInit(TorchDispatchMode):
    """Leaves tensors on the meta device as they are, where an initialiser would fill them with values."""

    def __init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Give back what was to be filled; pass everything else on."""
        if func in FILLS and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))
