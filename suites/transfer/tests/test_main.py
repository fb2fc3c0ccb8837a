"""Requests that make no sense end with one line, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from suites.transfer.__main__ import NONSENSE, main


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--device", "bogus"), "--device bogus: not a device"),
        (("--side", "0"), "--side 0: expected a whole number of at least 1"),
        (("--batch-size", "0", "--cached", "--recipe", "feature_extraction"), "--batch-size 0: expected"),
        (("--patience", "-1"), "--patience -1: expected a whole number of at least 0"),
        (("--epochs", "0"), "--epochs 0: expected"),
        (("--seed", "99999999999999999999"), "--seed 99999999999999999999: expected a whole number from 0 to"),
        (("--model", ".foo:bar"), "--model .foo:bar: "),
        (("--model", "math:pi"), "can't be called without arguments"),
        (("--model", "torch.nn:Linear"), "can't be called without arguments"),
        (("--model", "os:getcwd"), "gives str; expected a torch.nn.Module"),
    ],
)
def test_nonsense_is_one_line(
    options: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(tmp_path), *options]) == NONSENSE
    said = capsys.readouterr().out
    assert says in said
    assert "Traceback" not in said
