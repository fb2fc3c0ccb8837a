"""Verdicts between runs: what was planted is found and named, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from harness.errors import RunError
from harness.records.schema import MeasurementRecord, Record
from harness.statistics.changes import _critical, between_processes
from reports.comparison.changes import Judgement, differences, judge
from reports.comparison.command import main
from reports.frames.run import Run, load
from reports.tests.made_runs import ENVIRONMENT, check, compared, latency, newer_row, write_run


def loaded(folder: Path, records: list[Record], **facts: object) -> Run:
    return load(write_run(folder, records, {**ENVIRONMENT, **facts}))


def changed(rows: list[Record], quantity: str, change: Callable[[float], float], subject: str = "") -> list[Record]:
    """The rows with every sample of a quantity (of a subject) changed."""
    return [
        replace(r, samples=tuple(map(change, r.samples)))
        if isinstance(r, MeasurementRecord) and r.quantity == quantity and r.subject == (subject or r.subject)
        else r
        for r in rows
    ]


def named(rows: list[Judgement], verdict: str) -> set[tuple[str, str, str]]:
    return {(r.kind, r.architecture, r.reference) for r in rows if r.verdict == verdict}


def test_planted_regressions_are_the_only_ones(run: Run, earlier: Run) -> None:
    """Backwards, the planted changes are a slowdown, a memory saving and a check that breaks."""
    rows = judge(run, earlier)
    assert named(rows, "slower") == {("time", "resnet50", "torchvision"), ("time", "resnet50", "timm")}
    assert named(rows, "smaller") == {("memory", "resnet18", "")}
    assert {r.what for r in rows if r.verdict == "newly failing"} == {"shapes"}
    assert {r.what for r in rows if r.regression} == {"infer, batch 4, 224 px, cpu", "shapes"}


def test_a_run_against_itself_changes_nothing(run: Run) -> None:
    assert not [r for r in judge(run, run) if r.changed]


def test_conformance_alone_is_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (write_run(tmp_path / name, [check("shapes")]) for name in ("one", "two"))
    assert command(one, two) == 0
    assert "1 check as before" in capsys.readouterr().out


def test_flagged_subjects_are_not_judged(run: Run, earlier: Run) -> None:
    (row, *_) = [r for r in judge(earlier, run) if r.kind == "time" and r.subject == "mine"]
    assert row.verdict == "cannot tell"
    assert row.why.startswith("not ranked: ")


@pytest.mark.parametrize("quantity", ["flops", "parameters"])
def test_counts_are_exact(quantity: str, tmp_path: Path) -> None:
    rows = compared("resnet18", "infer", 0.018)
    more = changed(rows, quantity, lambda amount: amount + 1, "ours")
    found = judge(loaded(tmp_path / "a", rows), loaded(tmp_path / "b", more))
    assert [(r.kind, r.verdict) for r in found if r.changed] == [(quantity, "larger")]


def test_an_allocation_of_five_megabytes_is_seen_and_a_rounding_is_not(tmp_path: Path) -> None:
    def with_memory(folder: str, extra: float) -> Run:
        rows = changed(compared("resnet18", "infer", 0.018), "peak_memory", lambda _: 98e6 + extra)
        return loaded(tmp_path / folder, rows)

    base = with_memory("base", 0)
    assert ("memory", "resnet18", "") in named(judge(base, with_memory("more", 5e6)), "larger")
    assert not named(judge(base, with_memory("rounded", 512)), "larger")


def processes(folder: Path, factors: list[float], *, environment: dict[str, object] | None = None) -> Run:
    """One comparison in several processes, whose ratios differ by ``factors``."""
    rows: list[Record] = []
    for process, factor in enumerate(factors):
        for row in compared("resnet18", "infer", 0.018):
            assert isinstance(row, MeasurementRecord)
            slower = factor if row.quantity == "latency" and row.role == "subject" else 1.0
            rows.append(replace(row, process=process, samples=tuple(s * slower for s in row.samples)))
    return loaded(folder, rows, **(environment or {}))


def test_processes_are_the_samples_where_there_are_enough(tmp_path: Path) -> None:
    scatter = [1.0, 1.01, 0.99, 1.005, 0.995, 1.002]
    base = processes(tmp_path / "base", scatter)
    same = judge(base, processes(tmp_path / "same", scatter[::-1]))
    slow = judge(base, processes(tmp_path / "slow", [1.05 * s for s in scatter]))
    assert named(same, "slower") == named(same, "faster") == set()
    assert named(slow, "slower") == {("time", "resnet18", "torchvision"), ("time", "resnet18", "timm")}
    row = next(r for r in slow if r.verdict == "slower")
    assert row.low < 1 / 1.05 < row.high
    assert row.p == pytest.approx(2 / math.comb(12, 6))


def test_without_a_common_reference_only_the_same_machine_tells(tmp_path: Path) -> None:
    def alone(folder: str, factor: float, processes: int, **facts: object) -> Run:
        rows: list[Record] = [
            replace(latency(factor * (1 + n / 1e3), comparison="alone"), process=n) for n in range(processes)
        ]
        return loaded(tmp_path / folder, rows, **facts)

    base = alone("base", 1.0, 5)
    assert [r.verdict for r in judge(base, alone("slow", 1.2, 5))] == ["slower"]
    (few,) = judge(base, alone("few", 1.2, 2))
    assert few.why == "no reference in common, and too few processes (--repeats)"
    (other,) = judge(base, alone("other", 1.2, 5, cpu="another"))
    assert other.why == "no reference in common, and the environments differ"
    assert differences(base, base) == []


def test_one_sample_or_none_is_no_change(tmp_path: Path) -> None:
    for rounds, folder in ((1, "one"), (5, "five")):
        rows = [
            replace(r, samples=r.samples[:rounds]) if isinstance(r, MeasurementRecord) else r
            for r in compared("resnet18", "infer", 0.018)
        ]
        slow = changed(rows, "latency", lambda seconds: 2 * seconds, "ours")
        found = judge(loaded(tmp_path / folder, rows), loaded(tmp_path / f"{folder}-slow", slow))
        times = [r for r in found if r.kind == "time"]
        assert {r.verdict for r in times} == {"cannot tell"}
        assert {r.why for r in times} == {f"only {rounds} rounds before"}


def test_zero_times_and_amounts_divide_nothing(tmp_path: Path) -> None:
    rows = [
        replace(r, samples=tuple(0.0 for _ in r.samples)) if isinstance(r, MeasurementRecord) else r
        for r in compared("resnet18", "infer", 0.018)
    ]
    found = judge(loaded(tmp_path / "zero", rows), loaded(tmp_path / "full", compared("resnet18", "infer", 0.018)))
    assert {r.verdict for r in found} == {"cannot tell"}
    assert all(r.why for r in found)


def test_many_rows_raise_the_bar_for_each(tmp_path: Path) -> None:
    """One of forty rows with p = 0.03 is what chance brings; alone it would be a claim."""
    from reports.comparison.changes import _adjusted

    base = Judgement(kind="time", suite="s", architecture="a", subject="o", what="w", verdict="slower", p=0.03)
    assert _adjusted([base])[0].verdict == "slower"
    others = [replace(base, p=p, verdict="no difference seen") for p in np.linspace(0.04, 1, 39)]
    assert _adjusted([base, *others])[0].verdict == "no difference seen"


@pytest.mark.parametrize(
    ("first", "second", "expected"), [(4, 4, 0), (5, 5, 2), (6, 6, 5), (8, 8, 13), (10, 10, 23), (5, 8, 6)]
)
def test_critical_values_are_the_published_ones(first: int, second: int, expected: int) -> None:
    """Mann and Whitney's table at 5 %, two-sided."""
    assert _critical(first, second) == expected


def test_the_interval_between_processes_covers_as_often_as_it_says() -> None:
    """At least 0.95 by construction; of 400 draws fewer than 360 have p < 1e-4."""
    random = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        a, b = np.exp(0.02 * random.standard_t(3, size=(2, 6)))
        found = between_processes(list(a), list(1.1 * b))
        assert found is not None
        held += found.low <= 1.1 <= found.high
    assert held >= 360


def command(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_exit_codes(run: Run, earlier: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run.folder, earlier.folder) == 1
    said = capsys.readouterr().out
    assert "resnet50 of ours: time, infer" in said
    assert "<script>" in said  # a terminal shows names as they are
    assert command(run.folder, earlier.folder, "--fail-on", "never") == 0
    assert command(run.folder, run.folder) == 0
    assert command(earlier.folder, run.folder, "--fail-on", "any") == 1


def test_machine_readable_forms(run: Run, earlier: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junit, markdown = tmp_path / "compare.xml", tmp_path / "summary.md"
    markdown.write_text("before\n")
    assert command(run.folder, earlier.folder, "--json", "-", "--junit", junit, "--markdown", markdown) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failed"]
    assert {r["architecture"] for r in found["rows"] if r["verdict"] == "slower"} == {"resnet50"}
    suite = ElementTree.parse(junit).getroot()
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) == 3
    summary = markdown.read_text()
    assert summary.startswith("before\n")
    assert "| **slower** |" in summary
    assert "<script>" not in summary


def test_what_cannot_be_compared_is_one_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_run(tmp_path / "empty", [])
    newer = write_run(tmp_path / "newer", [check("flops")], tail=newer_row())
    other = write_run(tmp_path / "other", [check("elsewhere", architecture="other")])
    cases = {
        empty: "run empty: it is empty, there is nothing to compare",
        newer: "is newer than",
        other: "no check and no measurement in common",
        tmp_path / "nowhere": "no run ",
    }
    for folder, says in cases.items():
        assert command(run.folder, folder, "--results", tmp_path) == 4
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_an_unwritable_file_is_one_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run.folder, run.folder, "--junit", tmp_path / "no" / "where.xml") == 4
    assert "No such file or directory" in capsys.readouterr().err


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    empty = loaded(tmp_path / "empty", [])
    with pytest.raises(RunError, match="run empty: it is empty"):
        judge(empty, empty)
