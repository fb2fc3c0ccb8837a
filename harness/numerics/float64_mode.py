"""Float64 throughout, where a model asks for float32 on purpose; and convolutions by fast ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.numerics.fast_conv import shortcut

aten = torch.ops.aten


class Float64Mode(TorchDispatchMode):
    """Keeps float64 where a cast, a sum or a mean asks for float32.

    Many correct models compute a softmax or a norm in float32 "for stability", whatever the input. In a float64
    comparison that is a downcast and would drown real deviations in rounding. Casts to half precisions are left as
    they are: those are deviations.
    """

    def __init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Rewrite the dtype of casts and factories; pass everything else on."""
        if (found := shortcut(func, args)) is not None:
            return found
        keywords = dict(kwargs or {})
        if keywords.get("dtype") is torch.float32 and _from_float64(func, args):
            keywords["dtype"] = torch.float64
        return func(*args, **keywords)


def _from_float64(func: Any, args: tuple[Any, ...]) -> bool:
    if func in (aten._to_copy.default, aten.sum.dim_IntList, aten.mean.dim, aten.mean.default, aten.sum.default):
        return isinstance(args[0], Tensor) and args[0].dtype is torch.float64
    return False
