"""What importing a subject's file does to the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

from harness.process.global_state import FUNCTIONS, changes, restore, settings

REFERENCES = ("torchvision.models", "timm.models")
"""Loaded first, so that what a subject puts in the place of their functions is seen."""
FOREIGN = (
    "default dtype",
    "default device",
    "gradient mode",
    "float32 matmul precision",
    "cuDNN precision",
    "denormal numbers",
    "autocast",
    "sums of float16 in float16",
    "sums of bfloat16 in bfloat16",
    "hooks on all modules",
    FUNCTIONS,
)
"""Settings by which one file changes what all other models compute. Others, of threads or logging, are a script's."""

import_changes: dict[str, list[str]] = {}
"""What the import of each `--subject` changed in the process, in words."""


@contextmanager
def watched(spec: str) -> Iterator[None]:
    """Note what the import of ``spec`` in the block changes of `FOREIGN`, and undo it: other subjects may follow."""
    for name in REFERENCES:
        if find_spec(name.partition(".")[0]) is not None:
            import_module(name)
    before = settings()
    yield
    found = [text for name, text in changes(before) if name in FOREIGN]
    if found:
        import_changes[spec] = found
        restore(before)
