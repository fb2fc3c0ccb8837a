"""What is switched off while steps are timed, and back on afterwards."""

from __future__ import annotations

import cProfile
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """No cyclic garbage collection, and no Python tracer or profiler (coverage, debuggers), for all contenders alike.

    pytest-benchmark pauses tracers around the one function that it times only; the contenders that run between its
    rounds need the same, or the ratio would measure the tracer.
    """
    collecting, tracer, profiler = gc.isenabled(), sys.gettrace(), sys.getprofile()
    gc.collect()
    gc.disable()
    sys.settrace(None)
    sys.setprofile(None)
    try:
        yield
    finally:
        if isinstance(profiler, cProfile.Profile):
            profiler.enable()  # it is no callable, which is all that sys.setprofile takes
        else:
            sys.setprofile(profiler)
        sys.settrace(tracer)
        if collecting:
            gc.enable()
