"""One line that reproduces a failing example."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.subjects.subject import label_of

if TYPE_CHECKING:
    from harness.workbench import Workbench


def describe_failure(bench: Workbench, test: Callable[[], None]) -> None:
    """Run a Hypothesis test; an AssertionError keeps its message and gains nothing but its own first failing example.

    Hypothesis shrinks to the smallest example and raises that one; several distinct failures come as a group, of
    which the first is raised.
    """
    try:
        test()
    except BaseExceptionGroup as group:
        first = next((e for e in group.exceptions if isinstance(e, AssertionError)), group.exceptions[0])
        raise first from None


def forward_line(
    bench: Workbench, shape: tuple[int, ...], *, keywords: str = "", device: str = "cpu", train: bool = False
) -> str:
    """A shell line that builds the subject and prints the shape of its output for one input shape."""
    spec = bench.subject.spec
    name = bench.subject.factory_name
    where = "" if not (spec.endswith(".py") or "/" in spec) else f"import sys; sys.path.insert(0, {_parent(spec)!r}); "
    code = (
        f"import torch; {where}from importlib import import_module; models = import_module({label_of(spec)!r}); "
        f"torch.set_default_device({device!r}); m = models.{name}({keywords}).{'train' if train else 'eval'}(); "
        f"o = m(torch.zeros{shape}); "
        "print(getattr(o, 'shape', o))"
    )
    return f"python -c {shlex.quote(code)}"


def _parent(spec: str) -> str:
    return spec.rpartition("/")[0] or "."
