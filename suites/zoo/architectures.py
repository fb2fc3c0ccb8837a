"""The zoo: whatever names a library lists, and the checks that need nothing published."""

from __future__ import annotations

from functools import cache

from harness.subjects.facts import Architecture, Family, Listed
from reference.libraries.reference import Reference

GENERAL = (
    "shapes",
    "shapes_on_values",
    "gradients",
    "batch_independence",
    "determinism",
    "input_untouched",
    "state_dict_round_trip",
    "export",
)
"""What any network promises: see `suites.zoo.checks`."""


@cache
def listing(spec: str) -> tuple[Architecture, ...]:
    """Every name that the library ``spec`` lists; none where it is no library with a list."""
    from reference.libraries.model_lists import listed

    source = f"the list of {spec}"
    return tuple(Listed(name=name, input_size=side, source=source, checks=GENERAL) for name, side in listed(spec))


def _references() -> tuple[Reference, ...]:
    return ()


FAMILY = Family(
    name="zoo",
    architectures=(),
    model="",
    references=_references,
    own_checks=GENERAL,
    listing=listing,
)
