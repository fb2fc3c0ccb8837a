"""Which tests there are, and for whom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.tests.judged import GOOD, ROOT, run

LIST = ("--collect-only", "-q")


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


def test_a_subject_called_like_a_library(tmp_path: Path) -> None:
    """It is judged, and `import timm` still gives the library."""
    done = run(tmp_path, *LIST, subjects={"timm": "from suites.resnet.model import resnet18"})
    assert done.code == pytest.ExitCode.OK, done.out


def test_tests_of_the_suites_own_code_are_not_about_a_subject(tmp_path: Path) -> None:
    done = run(tmp_path, *LIST, subjects={"right": GOOD})
    assert done.code == pytest.ExitCode.OK
    listed = [line for line in done.out.splitlines() if "::" in line]
    assert listed
    assert all("test_resnet.py::test_conformance[right:resnet18-" in x or "benchmark" in x for x in listed), listed


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
