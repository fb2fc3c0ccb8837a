from __future__ import annotations

import pytest

from harness.plugin.terminal import TerminalProgress


class Terminal:
    def __init__(self, isatty: bool) -> None:
        self.isatty = isatty
        self.written: list[str] = []

    def ensure_newline(self) -> None:
        self.written.append("newline")

    def rewrite(self, line: str, **markup: bool) -> None:
        assert markup == {"erase": True}
        self.written.append(line)

    def write_line(self, line: str) -> None:
        self.written.append(line)


@pytest.mark.parametrize(
    ("isatty", "expected"),
    [
        (True, ["newline", "it: round 0 of 2 ", "it: round 1 of 2 ", "it: round 2 of 2 "]),
        (False, ["newline", "it: 2 rounds"]),
    ],
)
def test_a_terminal_counts_and_a_log_has_one_line(isatty: bool, expected: list[str]) -> None:
    terminal = Terminal(isatty)
    progress = TerminalProgress(terminal)
    for done in range(3):
        progress("it", done, 2)
    assert terminal.written == expected
