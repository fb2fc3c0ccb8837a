"""Conformance of any model of a library's list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.plugin.fixtures import judge

if TYPE_CHECKING:
    from harness.bench.bench import Bench


@pytest.mark.filterwarnings("default")  # what a model warns about is not what it is judged by
def test_conformance(subject: Bench, check: str) -> None:
    judge(subject, check)
