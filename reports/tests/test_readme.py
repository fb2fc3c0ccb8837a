"""Every command that the README shows: it is still there, takes these options, and finds something to do."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [
    line.split("  #")[0].strip()
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"    (make|pytest|python -m|torchrun|pip install) ", line)
]
MODELS = "from torchvision.models import resnet50, vit_b_16\n"
RECIPES = "from suites.transfer.recipe import *\n"


def run(arguments: list[str], folder: Path = ROOT) -> str:
    own = {n: v for n, v in os.environ.items() if not n.startswith("PYTEST_XDIST")}  # as a user's shell has it
    done = subprocess.run(arguments, cwd=folder, env=own, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{shlex.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def help_of(module: str) -> str:
    return run([sys.executable, "-m", module, "--help"])


def options(words: list[str]) -> list[str]:
    return [word.split("=")[0] for word in words if word.startswith("--")]


def test_the_readme_shows_commands() -> None:
    assert len(COMMANDS) > 15
    assert COMMANDS[:2] == ["make benchmark", "make test"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make(command: str) -> None:
    assert run([*shlex.split(command), "--dry-run"])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("pytest")])
def test_pytest(command: str, tmp_path: Path) -> None:
    """Collected only: what it would run is there."""
    words = []
    for word in shlex.split(command)[1:]:
        if word in ("my_models.py", "my_recipes.py"):
            file = tmp_path / word
            file.write_text(MODELS if word == "my_models.py" else RECIPES)
            word = str(file)
        words.append(word)
    said = run([sys.executable, "-m", "pytest", "--collect-only", "-q", *words, "--results", str(tmp_path / "results")])
    assert re.search(r"^[1-9]\d*(/\d+)? tests collected", said, re.MULTILINE), said[-500:]


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.match("python -m|torchrun", c)])
def test_modules_take_the_options(command: str) -> None:
    """By each command's own help; a sweep also takes those of pytest."""
    words = shlex.split(command.replace('"$(', "'").replace(')"', "'"))
    module = words[words.index("-m") + 1]
    known = help_of(module.removesuffix(".__main__"))
    if module == "reports" and len(words) > 3 and words[3] in ("compare", "history", "table", "html", "open"):
        known = run([sys.executable, "-m", module, words[3], "--help"])
    if module == "harness.sweep":
        known += help_of("pytest")
    for option in options(words[words.index(module) :]):
        assert re.search(rf"{option}\b", known), f"{module} has no option {option}"


def test_the_sweep_lists_its_tasks(tmp_path: Path) -> None:
    (command,) = (c for c in COMMANDS if c.startswith("python -m harness.sweep") and "--dry-run" in c)
    pytest.importorskip("ray")
    said = run([sys.executable, *shlex.split(command)[1:], "--results", str(tmp_path)])
    assert "task" in said


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("pip")])
def test_extras_are_declared(command: str) -> None:
    (extra,) = re.findall(r"\.\[(\w+)\]", command)
    assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
