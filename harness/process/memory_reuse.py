"""Memory that is kept for the next call: the interpreter's frame stack and the C library's heap.

CPython allocates frames in chunks of 16 KiB and frees a chunk as soon as the first frame in it returns. Where a loop's
calls happen to cross a chunk's end, each call maps and unmaps memory: one comparison of an EfficientNet-B0 took twenty
times as long under a few more frames. `with_room` preallocates a chunk.

Conformance builds and drops networks of some hundred megabytes. By default glibc returns each tensor to the kernel,
which zeroes every page anew: a fifth of a ViT-B/16's verdict. `keep_freed_memory` keeps them.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

ROOM = 2**19
"""Bytes for the frames of what is called: some thousand calls deep."""
_SLOT = 8  # bytes of a place on a frame's stack


def with_room(call: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
    """What ``call(*args, **keywords)`` gives, its frames in one piece.

    Pieces are powers of two: a frame that says to need a little over half of one is given a piece of twice its size,
    whose other half is left for the frames that it calls. What it says to need but doesn't use is never touched.
    """
    return call(*args, **keywords)


with_room.__code__ = with_room.__code__.replace(co_stacksize=ROOM // _SLOT)


# <malloc.h>: parameters of mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64 bit
_KEPT = 2**31 - 1  # bytes at the heap's end: the largest int


def keep_freed_memory() -> bool:
    """Serve tensors of up to 32 MiB from a heap that is not handed back; whether the C library can do so.

    Not for measurements: a user's own process has the allocator's defaults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_TRIM_THRESHOLD, _KEPT))
