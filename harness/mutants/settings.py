"""Process-wide settings kept as they were, whatever a faulty model does to them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from harness.global_state import kept, restore, settings


@contextmanager
def preserved() -> Iterator[None]:
    """Put torch's settings, all generators and the warning filters back after the block."""
    before = settings()
    try:
        with warnings.catch_warnings(), kept():
            yield
    finally:
        restore(before)
