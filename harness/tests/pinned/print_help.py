"""``python harness/tests/pinned/print_help.py``: the help of every command, from one process, as JSON."""

from __future__ import annotations

import io
import json
import runpy
import sys
from contextlib import redirect_stdout

COMMANDS = {
    "harness.explain": "",
    "harness.mutants": "",
    "harness.sweep": "",
    "harness.measure.studies.noise": "",
    "reports": "",
    "reports html": "html",
    "reports open": "open",
    "reports compare": "compare",
    "reports table": "table",
    "reports history": "history",
    "suites.transfer": "",
    "suites.zoo": "",
    "suites.detector.train": "",
    "suites.detector.evaluate": "",
    "suites.detector.synthetic": "",
}


def help_of(command: str, subcommand: str) -> str:
    """What ``python -m`` prints for the command with ``--help``."""
    printed = io.StringIO()
    sys.argv = [command, *filter(None, [subcommand]), "--help"]
    with redirect_stdout(printed):
        try:
            runpy.run_module(command.split()[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code not in (0, None):
                raise RuntimeError(f"{command} --help: exit code {end.code}") from end
    return printed.getvalue()


if __name__ == "__main__":
    print(json.dumps({command: help_of(command, subcommand) for command, subcommand in COMMANDS.items()}))
