"""The rows that tests leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.tests.judged import GOOD, run, tiny
from reports.frames.run import load


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
