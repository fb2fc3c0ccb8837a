"""The C library's allocator, told to keep what is freed.

Conformance builds and drops networks of some hundred megabytes again and again. By default glibc gives each of their
tensors back to the kernel, which zeroes every page anew: a fifth of the time that a ViT-B/16's verdict takes.
"""

from __future__ import annotations

import ctypes
import sys

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
