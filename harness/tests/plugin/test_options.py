"""The options that a command repeats."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.plugin.options import command_of, repeated_options

TEST = "suites/resnet/test_resnet.py::test_conformance[a b:resnet18-shapes]"


def config(given: dict[str, Any], folder: str = "/project", plugins: tuple[str, ...] = ()) -> Any:
    """What pytest makes of a command line with these options."""
    return SimpleNamespace(
        getoption=lambda option, default=None: given.get(option, [] if option == "--subject" else default),
        option=SimpleNamespace(plugins=plugins),
        rootpath=Path("/project"),
        invocation_params=SimpleNamespace(dir=Path(folder)),
    )


def test_defaults_are_not_repeated() -> None:
    assert repeated_options(config({}), benchmark=False) == []
    assert repeated_options(config({}), benchmark=True) == ["--benchmark"]


@pytest.mark.parametrize(
    "options",
    [
        {"--arch": "vit_*,resnet18"},
        {"--device": "cuda:1"},
        {"--seed": 3},
        {"--weights": "imagenet"},
        {"--compile-backend": "inductor"},
        {"--hypothesis-profile": "nightly"},
        {"--hypothesis-seed": "5"},
    ],
)
def test_what_decides_what_a_check_does_is_repeated(options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    assert repeated_options(config(options), benchmark=False) == [option, str(value)]


def test_what_is_measured_is_repeated_for_a_benchmark() -> None:
    given = config({"--batch-size": "8", "--dtype": "bfloat16", "--precision": 0.02, "--flush-l2": True})
    measured = ["--batch-size", "8", "--dtype", "bfloat16", "--precision", "0.02", "--flush-l2"]
    assert repeated_options(given, benchmark=True) == ["--benchmark", *measured]
    assert repeated_options(given, benchmark=False) == []


def test_a_command_is_read_by_the_shell_as_it_was_meant() -> None:
    given = config({"--subject": ["it's here/a.py", "b.c"]}, plugins=("harness.plugin",))
    subjects = ["--subject", "it's here/a.py", "--subject", "b.c"]
    assert shlex.split(command_of(given, TEST, benchmark=False)) == ["pytest", TEST, "-p", "harness.plugin", *subjects]


def test_a_command_names_the_file_from_where_pytest_was_started() -> None:
    command = command_of(config({}, folder="/project/docs"), TEST, benchmark=False)
    assert shlex.split(command) == ["pytest", f"../{TEST}"]
