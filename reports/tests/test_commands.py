"""What `python -m reports` prints and writes besides the page of one run."""

from __future__ import annotations

import math
from pathlib import Path

import fsspec
import pytest

from reports.__main__ import main
from reports.frames.history import FAILED, MEMORY, RATIO, history
from reports.tests.made_runs import ENVIRONMENT, SCRIPT, check, compared, newer_row, write_run


def nightly(results: Path, runs: int = 12) -> Path:
    """Runs of which the second half takes a tenth longer."""
    for number in range(runs):
        facts = {**ENVIRONMENT, "started": f"2026-01-{number + 1:02d}", "git_commit": f"{number:040x}"}
        taken = 0.02 * (1.1 if number >= runs // 2 else 1.0) * (1 + 0.001 * (number % 2))
        write_run(results / f"202601{number + 1:02d}", [check("shapes"), *compared("resnet18", "infer", taken)], facts)
    return results


def test_history_has_a_row_per_run_and_figure(tmp_path: Path) -> None:
    frame = history(str(nightly(tmp_path, 3)))
    assert frame.groupby("figure", observed=True).size().to_dict() == {FAILED: 3, MEMORY: 3, RATIO: 6}
    first = frame[(frame["figure"] == RATIO) & (frame["reference"] == "timm")].iloc[0]
    assert first["value"] == pytest.approx(1.25, rel=0.01)
    assert (first["run"], first["commit"]) == ("20260101", "0" * 40)


def test_a_row_with_what_json_has_not_still_counts(tmp_path: Path) -> None:
    """Python writes NaN and infinity, which JSON has no words for."""
    failed = check("parity_eval", "failed", details={"error": math.nan, "bound": math.inf})
    write_run(tmp_path / "run", [failed])
    frame = history(str(tmp_path))
    assert list(frame.loc[frame["figure"] == FAILED, "value"]) == [1.0]


def test_the_page_of_many_runs_names_the_change_and_its_commit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nightly(tmp_path)
    write_run(tmp_path / "20260201", [], tail=newer_row())
    assert main(["history", "--results", str(tmp_path)]) == 0
    page = Path(capsys.readouterr().out.strip())
    text = page.read_text()
    assert "2 changes of level in 4 series over 12 runs." in text
    assert f"{6:040x}"[:12] in text
    assert "20260201: schema" in text


def test_history_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--results", str(tmp_path)]) == 4
    assert capsys.readouterr().err == f"error: {tmp_path}: it has no runs\n"


@pytest.mark.parametrize("form", ["terminal", "markdown", "csv", "latex"])
def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    folder = write_run(tmp_path / "run", [check("shapes"), check(f"a_b|{SCRIPT}", "failed")])
    assert main(["table", str(folder), "--format", form, "--columns", "check,outcome"]) == 0
    text = capsys.readouterr().out
    assert "failed" in text
    assert {"markdown": r"a_b\|&lt;script>", "latex": r"a\_b|<script>"}.get(form, f"a_b|{SCRIPT}") in text
    assert main(["table", str(folder), "--columns", "nothing"]) == 4


def test_a_run_at_a_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", [check("shapes")])
    files = fsspec.filesystem("memory")
    for name in ("records.jsonl", "environment.json"):
        files.pipe_file(f"/nights/run/{name}", (folder / name).read_bytes())
    assert main(["table", "latest", "--results", "memory://nights"]) == 0
    assert "shapes" in capsys.readouterr().out
    assert len(history("memory://nights")) == 1
