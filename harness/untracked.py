"""Parameters that ask for no gradient for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside the block.

    torch's counter of FLOPs follows modules with hooks on what requires one, and raises where a module is
    given a view of a parameter that was made without gradients (seen with torch 2.14: ``'NoneType' object has no
    attribute 'next_functions'``).
    """
    held = [p for p in model.parameters() if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
