"""Room for Python's frames.

CPython keeps the frames of a thread in pieces of memory of 16 KiB, and gives a piece back as soon as the first frame in
it returns. Where calls of a loop happen to cross from one piece to the next, each maps memory and unmaps it: one
comparison of an EfficientNet-B0 took twenty times as long under a few more frames. How deep the caller is should change
neither how long a verdict takes nor what a benchmark reports.
"""

from __future__ import annotations

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
