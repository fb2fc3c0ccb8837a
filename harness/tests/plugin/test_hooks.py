"""Requests that end before anything is collected."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.tests.judged import GOOD, run

LIST = ("--collect-only", "-q")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--subject", "nowhere/models.py"), "--subject nowhere/models.py: there is no such file"),
        (("--subject", "json"), "--subject json: has no callable named after an architecture; known: "),
        (("--subject", "no.such.module"), "--subject no.such.module: importing it raised ModuleNotFoundError"),
        (("--subject", "harness/"), "--subject harness/: is a folder; give a file in it"),
        (("--subject", "./README.md"), "--subject ./README.md: is no Python file; give a file as path/to/file.py"),
        (("--hypothesis-profile", "weekly"), "--hypothesis-profile weekly: known: conformance (the default), nightly"),
        (("--subject", "suites.resnet.model", "--arch", "vit_b_16"), "nothing to judge here; known: resnet: resnet18"),
    ],
)
def test_a_request_without_sense_is_one_line(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, *options)
    assert done.code == pytest.ExitCode.USAGE_ERROR, done.out
    assert says in done.error()
    assert not done.results.exists()


def test_an_unknown_architecture_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, "--arch", "resnet19")
    assert done.code == pytest.ExitCode.USAGE_ERROR
    error = done.error()
    assert "resnet19" in error
    assert "resnet18" in error
    assert "vit_b_16" in error


def test_a_subject_whose_import_raises(tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, subjects={"raising": "raise RuntimeError('boom\\nmore')"})
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert done.error().endswith("raising.py: importing it raised RuntimeError: boom")


def test_a_subject_whose_import_ends_the_program(tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, subjects={"ending": "class Stop(BaseException): ...\nraise Stop('now')"})
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert done.error().endswith("ending.py: importing it raised Stop: now")


def test_an_unknown_backend_of_the_compiler(tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, "--compile-backend", "nonsense")
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert "--compile-backend nonsense: torch has aot_eager, " in done.error()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, "--device", "cuda")
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert "sees no CUDA device; use --device cpu" in done.error()


def test_a_run_that_is_not_there_cannot_be_resumed(tmp_path: Path) -> None:
    done = run(tmp_path, "--collect-only", "--resume", "nowhere", subjects={"right": GOOD})
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert "--resume nowhere: no such run in " in done.error()
