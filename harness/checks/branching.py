"""Whether a network branches on values: at the kink of a ReLU or in a maximum, rounding can change a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

KINKS = (
    *("relu", "leaky_relu", "_prelu_kernel", "rrelu_with_noise", "threshold", "hardtanh", "hardswish", "hardsigmoid"),
    *("elu", "celu", "selu", "softshrink", "hardshrink", "clamp", "clamp_min", "clamp_max", "abs", "sign", "sgn"),
    *("max", "min", "maximum", "minimum", "fmax", "fmin", "amax", "amin", "aminmax", "argmax", "argmin", "topk"),
    *("sort", "kthvalue", "median", "mode", "max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d"),
    *("gt", "lt", "ge", "le", "eq", "ne", "where", "masked_fill", "floor", "ceil", "round", "trunc", "heaviside"),
    *("mkldnn_max_pool2d", "quantile", "cummax", "cummin", "nonzero", "signbit", "frac", "fmod", "remainder"),
)
"""Names of torch's operators whose derivative jumps somewhere, or that decide by comparing values."""


class Branching(TorchDispatchMode):
    """Notes operators among `KINKS`, in place or not, in ``seen``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note the operator's name; pass it on."""
        name = func.__name__.split(".")[0].removesuffix("_")
        if name in KINKS:
            self.seen.add(name)
        return func(*args, **(kwargs or {}))
