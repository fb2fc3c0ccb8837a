"""Conformance of Vision Transformers: the shared checks, and what is particular to the family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.plugin import judge

if TYPE_CHECKING:
    from harness.workbench import Workbench


def test_conformance(subject: Workbench, check: str) -> None:
    judge(subject, check)
