"""How long work shows that it goes on."""

from __future__ import annotations

from typing import Protocol


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
