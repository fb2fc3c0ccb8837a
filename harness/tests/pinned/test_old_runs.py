"""Runs of schema 1 and 2, with corrupt lines and a torn last one, are read as they always were.

``runs/`` holds them: made by hand, never to be changed. A new schema adds a run.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.sweep.tasks import read_plan
from harness.tests.pinned.pinning import HERE, expect_as_recorded, output_of
from reports import frames
from reports.export import write_parquet

RESULTS = HERE / "runs"
FIRST, SECOND = "20250101T120000-aaaa", "20260101T120000-bbbb"


def plain(value: Any) -> Any:
    """As JSON has it, with six digits of every float."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


def kinds(frame: pd.DataFrame) -> dict[str, str]:
    """Types of the columns by name; text is ``object`` in earlier versions of pandas and ``str`` in later ones."""
    return {str(name): str(kind).replace("object", "str") for name, kind in frame.dtypes.items()}


def listed(frame: pd.DataFrame) -> dict[str, Any]:
    return {"columns": kinds(frame), "rows": [plain(row) for row in frame.to_dict("records")]}


def text(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_frames(name: str) -> None:
    run = frames.load(name, RESULTS)
    found = {
        "id": run.id,
        "environment": dict(run.environment),
        "corrupt_lines": run.corrupt_lines,
        "complete": run.complete,
        "notices": list(run.notices),
    }
    for frame in (frames.checks, frames.measurements, frames.samples, frames.speeds, frames.ratios):
        found[frame.__name__] = listed(frame(run))
    expect_as_recorded(f"frames/{name}.json", text(found))


def test_history() -> None:
    frame = frames.history(str(RESULTS))
    expect_as_recorded("frames/history.json", text({**listed(frame), **frame.attrs}))


def test_a_newer_schema_is_left_out_of_history_and_refused(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    newer = tmp_path / "20270101T120000-cccc"
    newer.mkdir()
    (newer / "records.jsonl").write_text('{"kind": "check", "schema": 99}\n')
    frame = frames.history(str(tmp_path))
    assert [line.partition(":")[0] for line in frame.attrs["left_out"]] == [newer.name]
    output_of(["-m", "reports", "table", newer.name, "--results", str(tmp_path)], tmp_path, code=4)


def test_comparison(tmp_path: Path) -> None:
    command = ["-m", "reports", "compare", FIRST, SECOND, "--results", str(RESULTS), "--json", "-"]
    expect_as_recorded("frames/comparison.json", text(plain(json.loads(output_of(command, tmp_path, code=1)))))


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_table(name: str, tmp_path: Path) -> None:
    command = ["-m", "reports", "table", name, "--frame", "checks", "--format", "markdown", "--results", str(RESULTS)]
    expect_as_recorded(f"frames/{name}.md", output_of(command, tmp_path))


def test_page(tmp_path: Path) -> None:
    """Its sections, and what it says of ``mutants.json`` and ``noise.json``."""
    page = tmp_path / "page.html"
    output_of(["-m", "reports", "html", SECOND, "--results", str(RESULTS), "--output", str(page)], tmp_path)
    written = page.read_text(encoding="utf-8")
    body = re.sub(r"<script.*?</script>", "", written, flags=re.DOTALL)
    headings = re.findall(r"<h[1-3][^>]*>([^<]+)", body)
    sentences = re.findall(r"[^<>]*(?:faulty variants were rejected|promises about the measurement)[^<]*", body)
    expect_as_recorded("frames/page.txt", "\n".join([*headings, "", *map(str.strip, sentences)]) + "\n")


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_parquet(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(RESULTS / name, folder)
    written = write_parquet(frames.load(folder))
    assert sorted(path.name for path in written) == ["checks.parquet", "measurements.parquet"]
    found = {path.name: kinds(pd.read_parquet(path)) for path in written}
    expect_as_recorded("frames/parquet.json", text(found))


def test_resume_leaves_out_what_has_a_row(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    command = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "suites/resnet", "--arch", "resnet18"]
    prefix = "suites/resnet/test_resnet.py::test_conformance[resnet18-"
    for name in (FIRST, SECOND):
        printed = output_of([*command, "--results", str(tmp_path), "--resume", name], tmp_path)
        left = {line.removeprefix(prefix)[:-1] for line in printed.splitlines() if line.startswith(prefix)}
        assert not left & {"parameters", "shapes", "compile"}
        assert {"gradients", "parity_eval"} <= left, "a corrupt or torn row, or another subject's, is none of this test"


def test_tasks_of_a_sweep() -> None:
    tasks, arguments = read_plan(RESULTS / SECOND / "tasks.json")
    found = [[task.key, task.parameters, *(case.check for case in task.cases)] for task in tasks]
    expect_as_recorded("frames/tasks.json", text({"arguments": list(arguments), "tasks": found}))
