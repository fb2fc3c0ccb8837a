"""A suite's ``published.py`` as a subject: what conforms, and what is expected not to, with the reason."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping

import pytest

from harness.subjects.facts import Family
from harness.subjects.subject import Subject

DECISIVE = ("parameters", "multiply_adds", "shapes", "skip_gradient", "parity_eval", "parity_sizes", "parity_train")
"""The checks that say which architecture a network is."""


def published_subject(family: Family, name: str) -> Subject:
    """``suites/<family>/published.py``'s factory called ``name``. Imports nothing before it is built."""
    architecture = family.find(name)
    assert architecture is not None, f"{name} is no architecture of {family.name}"
    module = f"suites.{family.name}.published"
    return Subject(
        label="published",
        spec=module,
        architecture=architecture,
        family=family,
        factory_name=name,
        module=lambda: importlib.import_module(module),
    )


def conforming(family: Family, name: str, checks: Iterable[str] = DECISIVE) -> list[object]:
    """Cases for ``parametrize(("published", "name"), ..., indirect=["published"])`` that have to pass."""
    subject = published_subject(family, name)
    return [pytest.param(subject, check, id=f"{name}-{check}") for check in checks]


def deviating(family: Family, name: str, reasons: Mapping[str, str]) -> list[object]:
    """Cases that are expected to fail, strictly: check -> the deviation that makes it fail."""
    subject = published_subject(family, name)
    return [
        pytest.param(
            subject,
            check,
            id=f"{name}-{check}",
            marks=pytest.mark.xfail(strict=True, reason=f"published listing: {why}"),
        )
        for check, why in reasons.items()
    ]
