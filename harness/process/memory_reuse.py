"""Memory that is kept for the next call: the interpreter's frame stack and the C library's heap.

CPython allocates frames in chunks of 16 KiB and frees a chunk as soon as the first frame in it returns. Where a loop's
calls happen to cross a chunk's end, each call maps and unmaps memory: one comparison of an EfficientNet-B0 took twenty
times as long under a few more frames. `with_room` preallocates a chunk.

Conformance builds and drops networks of some hundred megabytes. By default glibc returns each tensor to the kernel,
which zeroes every page anew: a fifth of a ViT-B/16's verdict. `keep_freed_memory` keeps them, and `trim_heap` returns
them where they would add to the peak.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Callable
from pathlib import Path
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
_MOST_FREED = 5 * 2**29
"""Bytes: half a gigabyte of libraries, and what a check of ViT-B/16 allocates and frees, which is slow to map anew."""


class _Heap(ctypes.Structure):
    """``struct mallinfo2``: bytes mapped for single tensors (``hblkhd``) and allocated from the heap (``uordblks``)."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")]
    _fields_ += [(name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")]


def trim_heap() -> bool:
    """Return every free page of the heap to the kernel; whether the C library can do so.

    For use after a large network is freed for good: gaps between small tensors are of no use to larger ones.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(0))


def trim_large_heap() -> None:
    """`trim_heap` where more than `_MOST_FREED` bytes are resident that no allocation holds."""
    info = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None  # glibc 2.33 and later
    if info is None:
        return
    info.restype = _Heap
    heap = info()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if resident - heap.uordblks - heap.hblkhd > _MOST_FREED:
        trim_heap()


def keep_freed_memory() -> bool:
    """Serve tensors of up to 32 MiB from a heap that is not handed back; whether the C library can do so.

    Not for measurements: a user's own process has the allocator's defaults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_TRIM_THRESHOLD, _KEPT))
