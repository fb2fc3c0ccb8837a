"""From a selection to tasks, and what a machine says before the first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RequestError
from harness.sweep.__main__ import main
from harness.sweep.cluster import NodeFacts, differences, probe
from harness.sweep.placement import core_sets, pinned
from harness.sweep.plan import collect, plan
from harness.sweep.staging import ROOT, absolute, shard_name, staged, write_shard
from harness.sweep.tasks import OWN, read_plan, to_json
from harness.sweep.worker import arguments


def row(test: str, **facts: Any) -> dict[str, Any]:
    made = {"test": test, "suite": "resnet", "subject": "ours", "architecture": "resnet18", "check": "c"}
    return {**made, "configuration": "", "parameters": 5, "skipped": False, **facts}


def test_tests_are_grouped_by_architecture_subject_and_configuration() -> None:
    rows = [
        row("a"),
        row("b", architecture="resnet50"),
        row("c"),
        row("d", configuration="infer"),
        row("e", subject="", architecture="test_resnet"),
        row("f", subject="", architecture="test_resnet", skipped=True),
    ]
    made = plan(rows, repeats=2)
    assert [t.key for t in made] == [
        "resnet/ours:resnet18-conformance",
        "resnet/ours:resnet50-conformance",
        "resnet/ours:resnet18-infer",
        "resnet/ours:resnet18-infer#1",
        f"resnet/{OWN}:test_resnet-conformance",
    ]
    assert [[c.test for c in t.cases] for t in made] == [["a", "c"], ["b"], ["d"], ["d"], ["e"]]


def test_nothing_selected() -> None:
    with pytest.raises(RequestError, match="the selection is empty"):
        plan([])


def test_the_plan_is_kept(tmp_path: Path) -> None:
    made = plan([row("a"), row("d", configuration="infer")])
    (tmp_path / "tasks.json").write_text(to_json(made, ["suites", "--benchmark"]))
    assert read_plan(tmp_path / "tasks.json") == (made, ("suites", "--benchmark"))


def test_the_list_is_pytests_own_and_the_same_each_time() -> None:
    asked = ["suites/resnet", "--arch", "resnet18", "--subject=suites/resnet/model.py", "-k", "shapes"]
    options, rows = collect(asked, ROOT)
    assert options == asked[1:]
    (task,) = plan(rows)
    assert task.key == "resnet/model:resnet18-conformance"
    assert [c.check for c in task.cases] == ["shapes", "shapes_on_values"]
    assert plan(collect(asked, ROOT)[1]) == (task,)
    line = arguments(task, options, Path("there"))
    assert [part for part in line if part.startswith("suites/")] == [c.test for c in task.cases]
    assert line[-2:] == ["--arch=resnet18", "--results=there"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dry-run", "--arch", "resnet19"], "--arch resnet19: no such architecture"),
        (["--dry-run", "suites/resnet", "-k", "nothing_has_this_name"], "the selection is empty"),
        (["--repeats", "0"], "--repeats 0: expected a positive number"),
        (["--gpus-per-task", "-1"], "--gpus-per-task -1: expected 0 or more"),
        (["--address", "ray://localhost:1"], "--address ray://localhost:1: nothing answers there"),
        (["--address", "somewhere"], "expected local, auto, HOST:PORT or ray://HOST:PORT"),
        (["--resume", "no-such-run"], "--resume no-such-run: no sweep of that name in results"),
    ],
)
def test_a_request_without_sense_is_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 4
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("harness.sweep.__main__.find_spec", lambda name: None)
    assert main([]) == 4
    assert capsys.readouterr().err == "error: a sweep needs Ray: pip install -e '.[sweep]'\n"


def test_nodes_that_differ_are_listed() -> None:
    same = {"python": "3.12.1", "torch": "2.9.0", "torchvision": "1", "timm": "1", "ray": "2.50"}
    answers = {
        "a": NodeFacts(host="a", versions=same),
        "b": NodeFacts(host="b", versions={**same, "torch": "2.8.0"}),
        "c": NodeFacts(host="c", versions=same, trouble="PermissionError: no"),
    }
    assert differences(answers) == [
        "torch differs between nodes: most have 2.9.0; b has 2.8.0",
        "node c can't write the results: PermissionError: no",
    ]


def test_a_results_url_is_tried(tmp_path: Path) -> None:
    assert probe(f"file://{tmp_path}/runs") == ""
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "taken").touch()
    assert probe(f"file://{tmp_path}/taken/runs")
    write_shard(f"file://{tmp_path}/runs", "r", "zoo/timm:a b-conformance", ["{}"])
    (shard,) = (tmp_path / "runs" / "r" / "shards").iterdir()
    assert shard.read_text() == "{}\n"
    assert shard_name("a/b") != shard_name("a-b")


def test_subjects_travel_with_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import beside")
    (tmp_path / "beside.py").write_text("")
    asked = ["suites/resnet", "--subject", str(tmp_path / "mine.py"), "--subject=timm.models"]
    assert absolute(asked) == asked
    with staged(asked) as (folder, arguments):
        assert arguments == ["suites/resnet", "--subject", "subjects/1/mine.py", "--subject=timm.models"]
        assert (folder / "subjects" / "1" / "beside.py").is_file()
        assert (folder / "harness" / "plugin" / "hooks.py").is_file()
        assert not (folder / "harness" / "tests").exists()


def test_core_sets_are_disjoint() -> None:
    assert core_sets(2, (0, 1, 2, 3, 4)) == [(0, 1), (2, 3)]
    assert core_sets(8, (0, 1)) == [(0, 1)]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system knows no affinity")
def test_neighbours_hold_different_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.sweep.placement.PATIENCE", 0.1)
    before = os.sched_getaffinity(0)
    with pinned(len(before), tmp_path) as cores:
        assert set(cores) == before
        with pinned(len(before), tmp_path) as none_left:
            assert none_left == ()
    assert os.sched_getaffinity(0) == before
    with pinned(1, tmp_path) as one:
        assert os.sched_getaffinity(0) == set(one)
