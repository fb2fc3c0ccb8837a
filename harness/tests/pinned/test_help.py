"""Commands and their options, as `--help` prints them."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.tests.pinned.pinning import ROOT, expect_as_recorded, output_of
from harness.tests.pinned.print_help import COMMANDS

HEADINGS = (
    "conformance and benchmarks of vision architectures",
    "what --benchmark measures; lists are comma-separated",
)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    driver = Path(__file__).with_name("print_help.py")
    found: dict[str, str] = json.loads(output_of([str(driver)], tmp_path_factory.mktemp("home")))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, printed: dict[str, str]) -> None:
    expect_as_recorded(f"help/{command.replace(' ', '_')}.txt", printed[command], reflow=True)


def test_options_of_pytest(tmp_path: Path) -> None:
    text = output_of(["-m", "pytest", "--help", "-p", "no:cacheprovider"], tmp_path)
    sections = re.split(r"^(?=\S.*:$)", text, flags=re.MULTILINE)
    own = [s.rstrip() for s in sections if s.partition(":\n")[0] in HEADINGS]
    assert len(own) == len(HEADINGS)
    expect_as_recorded("help/pytest.txt", "\n\n".join(own) + "\n", reflow=True)


def test_the_measurement_of_sweeps_is_a_command() -> None:
    """It takes a count alone, and has no help."""
    assert find_spec("harness.tests.sweep.ten_thousand") is not None


def test_targets_of_make() -> None:
    targets = re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    expect_as_recorded("make_targets.txt", "\n".join(sorted(targets)) + "\n")
