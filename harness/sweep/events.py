"""What the engine tells about a task that it was given, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Started:
    """A worker has taken it."""

    placement: Mapping[str, Any] = field(default_factory=dict)
    """Node, devices, cores: see `harness.sweep.placement`."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Lines of its ``records.jsonl``, as they were written."""

    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Its process is over."""

    reason: str = ""
    """Why it came to no verdict; empty where it did."""
    failed: bool = False
    """A test failed, which for most tests a row says too."""
    hopeless: bool = False
    """pytest refused the request: no part of it would do better."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Its worker or node is gone."""

    reason: str


Event = Started | Rows | Ended | Lost
