"""Hypothesis profiles and strategies, and a failing example as one line that reproduces it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from harness.subjects.facts import Architecture
from harness.subjects.subject import label_of

if TYPE_CHECKING:
    from harness.bench.bench import Bench


PROFILE, NIGHTLY = "conformance", "nightly"


def register_profiles() -> None:
    """``conformance`` draws the same examples every time; ``nightly`` draws five times as many, anew each time."""
    phases = (Phase.explicit, Phase.generate, Phase.shrink)  # "explain" runs a failing example many times more
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    common = settings(deadline=None, database=None, phases=phases, suppress_health_check=quiet)
    settings.register_profile(PROFILE, common, max_examples=100, derandomize=True)
    settings.register_profile(NIGHTLY, common, max_examples=500, derandomize=False)


def use_profile(asked: str | None) -> None:
    """Load `PROFILE` where none was asked for. Raises pytest.UsageError for one that nobody registered."""
    try:
        settings.get_profile(asked or PROFILE)
    except InvalidArgument:
        raise pytest.UsageError(f"--hypothesis-profile {asked}: known: {PROFILE} (the default), {NIGHTLY}") from None
    if asked is None:
        settings.load_profile(PROFILE)


def examples(share: float, *, least: int = 1, shrink: bool = True) -> settings:
    """The profile in force with a share of its examples, and at least so many.

    Without ``shrink`` the first example that fails is reported as it is, for examples that take long.
    """
    profile = settings.default
    assert profile is not None
    phases = tuple(profile.phases) if shrink else (Phase.explicit, Phase.generate)
    return settings(profile, max_examples=max(least, int(share * profile.max_examples)), phases=phases)


def image_sizes(
    architecture: Architecture, *, side: int, largest: int, largest_batch: int
) -> st.SearchStrategy[tuple[int, int, int]]:
    """(batch, height, width): odd, even, non-square, small and large; a fixed ``side`` where the family asks for it."""
    batches = st.integers(1, largest_batch)
    if architecture.patch is not None:
        return st.tuples(batches, st.just(side), st.just(side))
    least = architecture.minimum_size
    sides = st.one_of(st.integers(least, max(least, largest)), st.sampled_from((least, least + 1, largest)))
    return st.tuples(batches, sides, sides)


def describe_failure(bench: Bench, test: Callable[[], None]) -> None:
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
    bench: Bench, shape: tuple[int, ...], *, keywords: str = "", device: str = "cpu", train: bool = False
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
