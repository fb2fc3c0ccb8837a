"""The plugin end to end, each run in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import RequestError
from harness.plugin.run import Session
from harness.tests.judged import GOOD, ROOT, run, tiny
from reports.frames.run import load

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


def test_a_subject_called_like_a_library(tmp_path: Path) -> None:
    """It is judged, and `import timm` still gives the library."""
    done = run(tmp_path, *LIST, subjects={"timm": "from suites.resnet.model import resnet18"})
    assert done.code == pytest.ExitCode.OK, done.out


def test_an_unknown_backend_of_the_compiler(tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, "--compile-backend", "nonsense")
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert "--compile-backend nonsense: torch has aot_eager, " in done.error()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, "--device", "cuda")
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert "sees no CUDA device; use --device cpu" in done.error()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "tpu"}, "--device tpu: not a device; known: auto, cpu, cuda, cuda:N"),
        ({"device": "meta"}, "--device meta: known: auto, cpu, cuda, cuda:N"),
        ({"budget": 0.0}, "--budget 0: expected a positive number of seconds"),
        ({"seed": -5}, "--seed -5: expected a whole number from 0 to 2,147,483,647"),
        ({"seed": 2**32}, "--seed 4294967296: expected a whole number from 0 to 2,147,483,647"),
    ],
)
def test_options_are_read_before_anything_is_run(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    made = {"specs": (), "patterns": (), "device": "cpu", "results": tmp_path, "budget": 1.0, "seed": 0}
    session = Session(**{**made, "compile_backend": "aot_eager", "pretrained": False, **options})
    with pytest.raises(RequestError, match=f"^{re.escape(says)}$"):
        session.validate()


def test_a_results_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    done = run(tmp_path, "--arch", "resnet18", "-k", "parameters")
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert "give --results DIR" in done.error()


def test_listing_tests_imports_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys, pytest\n"
        "code = pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', *sys.argv[1:]])\n"
        "print('exit', int(code), 'torch' in sys.modules)\n"
    )
    suites = [f"suites/{f}/test_{f}{kind}.py" for f in ("resnet", "efficientnet", "vit") for kind in ("", "_benchmark")]
    command = [sys.executable, "-c", script, *suites, "--results", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "exit 0 False", done.stdout[-2000:] + done.stderr
    assert "suites/resnet/test_resnet.py::test_conformance[resnet18-skip_gradient]" in done.stdout.splitlines()
    assert not (tmp_path / "results").exists()


def test_only_the_subjects_are_judged_and_the_others_still_run(tmp_path: Path) -> None:
    """A factory that raises, a wrong output type, NaN and a correct subject, in one run."""
    subjects = {
        "raises": "def resnet18(num_classes=1000):\n    raise RuntimeError('no such layer\\nand more')\n",
        "texts": tiny("'logits'"),
        "undefined": tiny("self.head(x.mean((2, 3))) * float('nan')"),
        "right": GOOD,
    }
    done = run(tmp_path, "-k", "parameters or shapes_on_values", subjects=subjects)
    assert done.code == pytest.ExitCode.TESTS_FAILED, done.out
    assert "INTERNALERROR" not in done.out
    assert done.outcomes("right") == {"parameters": "passed", "shapes_on_values": "passed"}
    for wrong in ("raises", "texts", "undefined"):
        assert done.outcomes(wrong) == {"parameters": "failed", "shapes_on_values": "failed"}
    said = {(r["subject"], r["check"]): r["message"] for r in done.rows}
    assert said["raises", "parameters"] == (
        "resnet18 of raises: resnet18(num_classes=1000) raised RuntimeError: no such layer"
    )
    assert "forward returned str; expected a tensor of shape (batch, " in said["texts", "shapes_on_values"]
    assert "the logits are not finite" in said["undefined", "shapes_on_values"]
    assert "reproduce: python -c" in said["undefined", "shapes_on_values"]
    assert "resnet18 of right: right (2 passed)" in done.out
    assert "resnet18 of raises: WRONG (2 failed): parameters, shapes_on_values" in done.out
    assert "deselected" in done.out
    assert {r["test"].split("::")[1].split("[")[0] for r in done.rows} == {"test_conformance"}

    row = next(r for r in done.rows if r["subject"] == "right" and r["check"] == "parameters")
    assert row["run"] == done.folder.name
    assert (row["suite"], row["architecture"], row["kind"]) == ("resnet", "resnet18", "check")
    assert row["test"] == "suites/resnet/test_resnet.py::test_conformance[right:resnet18-parameters]"
    assert row["details"] == {"parameters": 11_689_512, "published": 11_689_512}
    assert row["reproduce"].startswith(f"pytest '{row['test']}' --subject ")
    assert row["seconds"] > 0
    environment = json.loads((done.folder / "environment.json").read_text())
    assert environment["finished"] >= environment["started"]
    assert environment["device"] == "cpu"
    assert load(done.folder).complete


WARNS = """
import warnings
import torchvision

warnings.warn("this module will move", DeprecationWarning)


class Warns(torchvision.models.ResNet):
    def forward(self, x):
        warnings.warn("this layer will change")
        float(self.conv1.weight.sum())  # which torch warns of
        return super().forward(x)


def resnet18(num_classes=1000):
    warnings.warn("this factory is deprecated", FutureWarning)
    return Warns(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
"""


def test_a_subject_that_warns_may_be_right(tmp_path: Path) -> None:
    """Though the project's own tests take every warning for an error."""
    done = run(tmp_path, "-k", "gradients or shapes_on_values", subjects={"warns": WARNS})
    assert done.outcomes("warns") == {"gradients": "passed", "shapes_on_values": "passed"}, done.out
    assert "this layer will change" in done.out


def test_tests_of_the_suites_own_code_are_not_about_a_subject(tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, subjects={"right": GOOD})
    assert done.code == pytest.ExitCode.OK
    listed = [line for line in done.out.splitlines() if "::" in line]
    assert listed
    assert all("test_resnet.py::test_conformance[right:resnet18-" in x or "benchmark" in x for x in listed), listed


def test_a_benchmark_without_a_subject_keeps_its_rows_too(tmp_path: Path) -> None:
    (tmp_path / "test_alone.py").write_text(
        "import pytest\nfrom harness.records.schema import MeasurementRecord\n\n\n"
        "@pytest.mark.speed\ndef test_alone(session, benchmark):\n    benchmark.pedantic(int, rounds=2)\n"
        "    session.record(MeasurementRecord(run=session.run, suite='detector', architecture='detector_resnet50',\n"
        "        subject='ours', role='subject', mode='infer', device='cpu', batch_size=1, input_size=64,\n"
        "        quantity='latency', samples=(1.0, 2.0), comparison='x', test='x'))\n"
    )
    alone = ("-p", "harness.plugin", "-c", str(ROOT / "pyproject.toml"))
    skipped = run(tmp_path, *alone, suite=str(tmp_path / "test_alone.py"))
    assert skipped.code == pytest.ExitCode.OK, skipped.out
    assert not skipped.results.exists(), "a benchmark that is skipped opens no folder"
    done = run(tmp_path, *alone, "--benchmark", suite=str(tmp_path / "test_alone.py"))
    assert done.code == pytest.ExitCode.OK, done.out
    assert [(r["quantity"], r["samples"]) for r in done.rows] == [("latency", [1.0, 2.0])]
    assert f"records: {done.folder / 'records.jsonl'}" in done.out
    assert (done.folder / "report.html").is_file(), done.out


def test_a_subject_that_hangs_fails_once_and_is_left_alone(tmp_path: Path) -> None:
    sleeping = "import time\n\n\ndef resnet18(num_classes=1000):\n    time.sleep(100)\n"
    # The correct subject needs about 3 s for its first check on one slow core, which pays for torch's imports.
    done = run(
        tmp_path, "-k", "parameters or multiply_adds", "--timeout", "20", subjects={"right": GOOD, "sleeping": sleeping}
    )
    assert done.code == pytest.ExitCode.TESTS_FAILED, done.out
    assert done.outcomes("right") == {"parameters": "passed", "multiply_adds": "passed"}
    assert done.outcomes("sleeping") == {"parameters": "failed", "multiply_adds": "skipped"}
    said = {r["check"]: r["message"] for r in done.rows if r["subject"] == "sleeping"}
    assert said["parameters"].startswith("resnet18 of sleeping: did not come back within --timeout")
    assert said["multiply_adds"] == "not run: sleeping:resnet18 hung in parameters"


def test_a_killed_run_keeps_every_row_that_it_had(tmp_path: Path) -> None:
    dying = (
        "import os, signal\nfrom suites.resnet import model\n\ncalls = []\n\n\n"
        "def resnet18(num_classes=1000):\n    calls.append(1)\n    return model.resnet18(num_classes=num_classes)\n\n\n"
        "def resnet34(num_classes=1000):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run(tmp_path, "-k", "parameters", subjects={"dying": dying})
    assert done.code == -signal.SIGKILL, done.out
    kept = load(done.folder)
    assert not kept.complete
    assert any("did not finish" in notice for notice in kept.notices)
    assert list(kept.checks["architecture"]) == ["resnet18"]
    assert list(kept.checks["outcome"]) == ["passed"]
    assert kept.corrupt_lines == 0
