"""The summary in the terminal, progress, and the page at the end."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from harness.errors import first_line
from harness.plugin.run import RUN
from harness.records.runs import RECORDS

SWEEP = "harness.sweep.pytest_plugin"
"""Its plugin is loaded into the processes of a sweep."""


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line per subject, where the records are, and the report's path after a benchmark."""
    run = config.stash[RUN]
    if run.store is None or config.pluginmanager.hasplugin(SWEEP):  # a sweep has one summary and report for all
        return

    terminalreporter.section("conformance")
    for line in run.verdicts.lines():
        terminalreporter.line(line)
    if run.store_error:
        terminalreporter.line(f"records: {run.store_error} ({len(run.store.unwritten)} rows not written)")
    terminalreporter.line(f"records: {run.store.folder / RECORDS}")
    if not config.getoption("--benchmark"):
        terminalreporter.line(f"report:  python -m reports {run.store.folder}")
        return
    try:
        from reports.export import write_parquet
        from reports.frames.run import load

        terminalreporter.line(f"tables:  {', '.join(str(path) for path in write_parquet(load(run.store.folder)))}")
    except Exception as error:  # the records are what counts
        terminalreporter.line(f"tables:  not written: {first_line(error)}")
    try:
        from reports.pages.run_page import write

        terminalreporter.line(f"report:  {write(run.store.folder)}")
    except Exception as error:  # the verdict stands whether or not the page could be written
        terminalreporter.line(f"report:  not written: {type(error).__name__}: {first_line(error)}")


class Terminal(Protocol):
    """The part of pytest's terminal reporter that is used."""

    @property
    def isatty(self) -> bool:
        """Whether lines can be rewritten."""
        ...

    def ensure_newline(self) -> None:
        """Start a line of its own."""
        ...

    def rewrite(self, line: str, **markup: bool) -> None:
        """Write over the current line."""
        ...

    def write_line(self, line: str) -> None:
        """Write a line."""
        ...


class TerminalProgress:
    """On a terminal one line that counts rounds; in a log one line per benchmark."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show ``done`` of ``total``."""
        if done == 0:
            self.terminal.ensure_newline()
            if not self.terminal.isatty:
                self.terminal.write_line(f"{what}: {total} rounds")
        if self.terminal.isatty:
            self.terminal.rewrite(f"{what}: round {done} of {total} ", erase=True)
