"""Verdicts between runs: what was planted is found and named, and nothing else."""

from __future__ import annotations

import base64
import csv
import html
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.errors import RunError
from harness.records.schema import MeasurementRecord, Outcome, Record
from reports.comparison.changes import Judgement, compare, differences, differing_facts, expect_common
from reports.comparison.command import main
from reports.frames.run import Run, load
from reports.pages.run_page import write
from reports.sections.changes import comparison_tables
from reports.tests.made_runs import A_A, ENVIRONMENT, check, compared, latency, newer_row, write_run


def loaded(folder: Path, records: list[Record], **facts: object) -> Run:
    return load(write_run(folder, records, {**ENVIRONMENT, **facts}))


def judge(before: Run, after: Run) -> list[Judgement]:
    return list(compare(before, after).rows)


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


def many_rows(folder: Path, outcome: Outcome, speedups: dict[str, float], memory: float = 98e6) -> Path:
    """Sixteen architectures with references that scatter by 2 %, some of which are faster by so much."""
    rows: list[Record] = [check("shapes"), check("flops", outcome)]
    for number in range(16):
        for row in compared(f"model{number}", "infer", 0.018 / speedups.get(f"model{number}", 1.0)):
            assert isinstance(row, MeasurementRecord)
            samples = row.samples
            if row.quantity == "latency" and row.role == "reference":
                samples = tuple(s * (1 + 0.02 * (-1) ** i) for i, s in enumerate(samples))
            elif row.quantity == "peak_memory" and number == 1:
                samples = (memory,)
            rows.append(replace(row, samples=samples))
    return write_run(folder, rows)


def on_the_page(page: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows of the tables of changes, from the data that the page carries."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in ("changed-speeds", "changed-memory", "changed-counts", "changed-checks"):
        address = re.search(
            rf'download="{name}.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page.read_text()
        )
        assert address, name
        for row in csv.DictReader(base64.b64decode(address[1]).decode().splitlines()):
            found[row["kind"], row["architecture"], row["subject"], row["what"], row["reference"]] = row
    return found


def test_page_and_command_say_the_same_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of many rows chance brings one as apart as model2, which neither claims; 512 bytes are a rounding for both."""
    before = many_rows(tmp_path / "before", "failed", {})
    after = many_rows(tmp_path / "after", "passed", {"model0": 1.2, "model2": 0.95}, memory=98e6 + 512)
    assert command(before, after, "--json", "-", "--fail-on", "never") == 0
    told = json.loads(capsys.readouterr().out)
    listed = [r for r in told["rows"] if r["kind"] != "conformance" or r["verdict"] != "no difference seen"]
    page = on_the_page(write(after, before))
    keys = [(r["kind"], r["architecture"], r["subject"], r["what"], r["reference"]) for r in listed]
    assert set(keys) == set(page)
    for key, row in zip(keys, listed, strict=True):
        assert page[key]["verdict"] == row["verdict"]
        if row["change"] is not None:
            assert float(page[key]["change"]) == row["change"]
    withdrawn = [r for r in listed if r["why"].startswith("one of 32 rows")]
    assert {r["architecture"] for r in withdrawn} == {"model2"}
    assert all(r["p"] < 0.05 and r["high"] < 1 for r in withdrawn)
    assert {r["architecture"] for r in listed if r["verdict"] in ("faster", "slower", "larger")} == {"model0"}
    assert {r["what"] for r in listed if r["verdict"] == "newly passing"} == {"flops"}
    assert told["summary"] in html.unescape((after / "report-against-before.html").read_text())


def test_planted_changes(run: Run, earlier: Run) -> None:
    rows = judge(earlier, run)
    checks = [r for r in rows if r.kind == "conformance" and r.verdict != "no difference seen"]
    assert {(r.verdict, r.subject, r.what) for r in checks} == {
        ("newly failing", "mine", "skip_gradient"),
        ("newly passing", "mine", "shapes"),
        ("new", "torchvision.models", "flops"),
        ("gone", "ours", "retired"),
        ("cannot tell", "ours", "torch_compile"),
    }
    assert checks[0].verdict == "newly failing"
    assert "join 3 is detached" in checks[0].why
    faster = [r for r in rows if r.verdict == "faster"]
    assert {(r.architecture, r.setting["mode"], r.reference) for r in faster} == {
        ("resnet50", "infer", "torchvision"),
        ("resnet50", "infer", "timm"),
    }
    assert [r.change for r in faster] == pytest.approx([1.3, 1.3], rel=1e-6)
    assert [(r.setting["mode"], r.change) for r in rows if r.verdict == "larger"] == [("train", 2.0)]
    assert not named(rows, "slower") | named(rows, "smaller")


def test_a_changed_reference_is_named(run: Run, earlier: Run) -> None:
    comparison = compare(earlier, run)
    assert differing_facts(earlier, run) == {"timm": ("1.0.19", "1.0.20")}
    (speeds,) = (t for t in comparison_tables(comparison) if t.name == "changed-speeds")
    at = {column.field: i for i, column in enumerate(speeds.columns)}
    notes = {row.cells[at["reference"]].text: row.cells[at["remark"]].text for row in speeds.rows if not row.sunk}
    assert notes["timm"] == "timm went from 1.0.19 to 1.0.20: the change may be the reference's"
    assert notes["torchvision"] == ""


def test_the_sentence(run: Run, earlier: Run) -> None:
    said = compare(earlier, run).sentence
    assert said.startswith("2 regressions: 1 newly failing, 1 larger, 1 newly passing, 2 faster, ")


def test_a_machine_of_half_the_speed_changes_nothing(tmp_path: Path) -> None:
    """Ratios are compared, so what slows subject and reference alike isn't seen as a change."""
    rows = compared("resnet18", "infer", 0.018)
    slow = changed(rows, "latency", lambda seconds: 2 * seconds)
    times = [r for r in judge(loaded(tmp_path / "a", rows), loaded(tmp_path / "b", slow)) if r.kind == "time"]
    assert {r.verdict for r in times} == {"no difference seen"}
    assert [r.change for r in times] == pytest.approx([1.0, 1.0])


def test_a_change_within_the_noise_of_both_runs_is_not_claimed(tmp_path: Path) -> None:
    """Each A/A pair has a floor of 0.72 %: a change of 1.2 % is under their sum, one of 1.6 % is over it."""
    before = loaded(tmp_path / "before", compared("resnet18", "infer", 0.018))
    near = judge(before, loaded(tmp_path / "near", compared("resnet18", "infer", 0.018 / 1.012)))
    far = judge(before, loaded(tmp_path / "far", compared("resnet18", "infer", 0.018 / 1.016)))
    assert {r.verdict for r in near if r.kind == "time"} == {"no difference seen"}
    assert {r.verdict for r in far if r.kind == "time"} == {"faster"}
    assert [r.floor for r in far if r.kind == "time"] == pytest.approx([2 * A_A] * 2, rel=1e-2)


def test_the_page_takes_runs_with_nothing_in_common(tmp_path: Path) -> None:
    empty, one = loaded(tmp_path / "empty", []), loaded(tmp_path / "one", [check("shapes"), check("flops", "failed")])
    assert [r.verdict for r in judge(empty, one)] == ["newly failing", "new"]
    assert [r.verdict for r in judge(one, empty)] == ["gone", "gone"]
    assert compare(empty, empty).sentence == "0 regressions: nothing to compare"
    assert "nothing to compare" in write(empty.folder, empty.folder).read_text()


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
        expect_common(compare(empty, empty))
