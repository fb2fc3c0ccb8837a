"""A made-up architecture and a bench for any factory of it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from harness.bench.bench import Bench
from harness.subjects.facts import Architecture, Family
from harness.subjects.subject import Subject


def architecture(**facts: Any) -> Architecture:
    """Facts of ``tiny``; those given replace the made-up ones."""
    made = {
        "name": "tiny",
        "aliases": ("tiny_patch4_12",),
        "parameters": 0,
        "multiply_adds": 0.0,
        "multiply_adds_tolerance": 0.0,
        "residual_joins": 0,
        "input_size": 12,
        "minimum_size": 8,
        "source": "made for this test",
    }
    return Architecture(**{**made, **facts})


def family(**facts: Any) -> Family:
    """A family of one member, without references."""
    return Family(name="tinies", architectures=(architecture(**facts),), model="", references=lambda: ())


def subject_of(factory: Callable[..., Any], **facts: Any) -> Subject:
    """``factory`` as an implementation of ``tiny``."""
    module = ModuleType("made")
    module.__dict__["tiny"] = factory
    made = family(**facts)
    return Subject(
        label="made",
        spec="made",
        architecture=made.architectures[0],
        family=made,
        factory_name="tiny",
        module=lambda: module,
    )


def bench_of(factory: Callable[..., Any], **facts: Any) -> Bench:
    """``factory`` on a bench of its own."""
    return Bench(subject_of(factory, **facts))
