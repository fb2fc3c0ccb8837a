"""Runs made by hand, written once; the tests only read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.frames.run import Run, load
from reports.pages.run_page import write
from reports.tests.made_runs import before_the_changes, full_run


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    before_the_changes(folder / "20260101T110000-aaaa")
    full_run(folder / "20260101T120000-bbbb")
    return folder


@pytest.fixture(scope="session")
def run(results: Path) -> Run:
    return load("latest", results)


@pytest.fixture(scope="session")
def earlier(results: Path) -> Run:
    return load("20260101T110000-aaaa", results)


@pytest.fixture(scope="session")
def page(run: Run, earlier: Run) -> Path:
    """The page of the full run, compared with the earlier one: it has every section."""
    return write(run.folder, earlier.folder)
