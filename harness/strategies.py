"""Hypothesis strategies for images, and the profiles that say how broadly to draw."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from harness.architecture import Architecture

PROFILE, NIGHTLY = "conformance", "nightly"


def register_profiles() -> None:
    """``conformance`` draws the same examples every time; ``nightly`` draws five times as many, anew each time."""
    phases = (Phase.explicit, Phase.generate, Phase.shrink)  # "explain" runs a failing example many times more
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    common = settings(deadline=None, database=None, phases=phases, suppress_health_check=quiet)
    settings.register_profile(PROFILE, common, max_examples=200, derandomize=True)
    settings.register_profile(NIGHTLY, common, max_examples=1000, derandomize=False)


def unshrunk(examples: int) -> settings:
    """For examples that take long: the first one that fails is reported as it is."""
    return settings(settings.default, max_examples=examples, phases=(Phase.explicit, Phase.generate))


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
