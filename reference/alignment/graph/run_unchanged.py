"""Runs a model and restores its buffers, attributes and modes afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module, *, train: bool = False) -> Iterator[None]:
    """Put ``model`` in eval (or train) mode; afterwards restore its buffers, attributes, modes and the RNG.

    Attributes are restored one level deep, so that outputs which the model keeps for later calls are removed.
    Parameters are not copied: a forward pass that changes its own parameters shows in the values.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
    containers: list[tuple[dict[Any, Any] | list[Any] | set[Any], Any]] = []
    for module in model.modules():
        attributes.append((module.__dict__, dict(module.__dict__)))
        containers += [(v, v.copy()) for v in module.__dict__.values() if type(v) in (dict, list, set)]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fused encoder layer of inference hides its projections in one operation.
    torch.backends.mha.set_fastpath_enabled(False)
    state = torch.random.get_rng_state()
    try:
        model.train(train)
        yield
    finally:
        for live, kept in attributes:
            live.clear()
            live.update(kept)
        for container, content in containers:
            _refill(container, content)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        torch.random.set_rng_state(state)
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _refill(container: dict[Any, Any] | list[Any] | set[Any], content: Any) -> None:
    if isinstance(container, list):
        container[:] = content
        return
    container.clear()
    container.update(content)


def first_logits(output: object) -> Tensor | None:
    """The first two-dimensional tensor in ``output``: a tensor, or one in a tuple, mapping or dataclass."""
    if isinstance(output, Tensor):
        return output if output.dim() == 2 else None
    if isinstance(output, dict):
        parts = list(output.values())
    elif isinstance(output, list | tuple):
        parts = list(output)
    else:
        parts = list(getattr(output, "__dict__", {}).values())
    found = [first_logits(part) for part in parts]
    return next((tensor for tensor in found if tensor is not None), None)
