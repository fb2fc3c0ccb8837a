"""The page: complete, self-contained, every name escaped, whatever the run."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.errors import RunError
from reports.__main__ import main
from reports.frames.ratios import ratios
from reports.frames.run import Run, load
from reports.pages.run_page import render, write
from reports.sections.checks import findings, verdict
from reports.sections.kill_matrix import read_strength
from reports.tests.made_runs import LONG, SCRIPT, check, compared, latency, measured, write_run

LIMIT = 3_000_000
"""Bytes of a page."""


class _Outline(HTMLParser):
    """Collects what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def outline(text: str) -> _Outline:
    parser = _Outline()
    parser.feed(text)
    return parser


def test_one_file_under_the_limit_that_loads_nothing(page: Path) -> None:
    assert page.name == "report-against-20260101T110000-aaaa.html"
    assert page.stat().st_size < LIMIT
    addresses = outline(page.read_text()).addresses
    assert {a.partition(":")[0] if a.startswith("data:") else a[:1] for a in addresses} <= {"#", "data"}
    assert "link" in outline(page.read_text()).tags  # the empty icon: without it a browser asks for one


def test_names_are_text_never_markup(page: Path) -> None:
    text = page.read_text()
    found = outline(text)
    assert found.tags.count("script") == 4  # specifications, Vega, DataTables, the page's own
    assert SCRIPT in "".join(found.texts)
    assert f"check{SCRIPT}" in "".join(found.texts)
    assert LONG in "".join(found.texts)
    specs = re.search(r'id="specs">(.*?)</script>', text, re.DOTALL)
    assert specs
    assert "<" not in specs[1]
    assert f"</script>{SCRIPT}" in json.dumps(json.loads(specs[1]))


def test_ids_are_unique_and_every_link_on_the_page_resolves(page: Path) -> None:
    found = outline(page.read_text())
    assert len(set(found.ids)) == len(found.ids)
    assert {a[1:] for a in found.addresses if a.startswith("#")} <= set(found.ids)


def test_every_section_is_there(page: Path) -> None:
    sections = {"changes", "checks", "failures", "speed", "scaling", "strength", "measured"}
    assert sections <= set(outline(page.read_text()).ids)


def test_every_chart_has_its_caption_and_data(page: Path) -> None:
    text = page.read_text()
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert len(figures) >= 10
    for figure in figures:
        address = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', figure)
        assert address
        rows = base64.b64decode(address[1]).decode().splitlines()
        assert len(rows) > 1
        assert re.search(r"[Ss]cale|second|megabyte|percent|No unit", figure)


def test_failures_are_sentences_with_their_line_and_layers(run: Run, page: Path) -> None:
    found = findings(run.checks)
    assert [f.outcome for f in found] == ["failed", "error", "failed", "xfailed"]
    assert found[0].sentence == "resnet18 of mine fails the check skip_gradient."
    layers = found[0].layers
    assert layers is not None
    assert layers.rows[1].cells[:3] == ("BatchNorm2d", f"bn1 {SCRIPT}", "stem.bn")
    assert layers.rows[0].cells[3:] == ("64×3×7×7", "stride 2", "1e-15")
    assert found[0].facts == (("join", "3"), ("error", "0.25"))
    assert "test_conformance[mine-resnet18-skip_gradient]" in page.read_text()


def test_the_verdict_in_one_sentence(run: Run, tmp_path: Path) -> None:
    state, said = verdict(run, ratios(run))
    assert state == "failed"
    assert said.startswith("2 of 28 checks failed and 1 could not be judged, on mine resnet18, ")
    assert "1 known deviation failed as expected" in said
    assert "(8 comparisons: 3 faster, 4 slower, 1 without a difference seen)" in said  # the wrong one isn't in it

    right = load(write_run(tmp_path / "right", [check("shapes"), check("flops")]))
    assert verdict(right, ratios(right)) == ("held", "All 2 checks held, on 1 subject.")
    skipped = load(write_run(tmp_path / "skipped", [check("shapes", "skipped")]))
    assert verdict(skipped, ratios(skipped)) == ("unknown", "Nothing was judged: all 1 check were skipped.")
    empty = load(write_run(tmp_path / "empty", []))
    assert verdict(empty, ratios(empty))[0] == "unknown"


def test_what_could_not_be_read_is_said(page: Path) -> None:
    text = page.read_text()
    assert "One line of records.jsonl is corrupt" in text
    assert "The last line of records.jsonl is torn" in text
    assert "The run did not finish" in text


def test_without_measurements_there_is_no_chart_and_no_vega(tmp_path: Path) -> None:
    text = render(load(write_run(tmp_path / "run", [check("shapes")])))
    assert "Nothing was measured in this run" in text
    assert len(text) < 160_000


@pytest.mark.parametrize("environment", [None, {}])
def test_an_empty_run_renders_and_says_so(tmp_path: Path, environment: dict[str, str] | None) -> None:
    text = write(write_run(tmp_path / "run", [], environment)).read_text()
    assert "The run is empty" in text
    assert "The environment was not recorded" in text


def test_enormous_zero_and_single_values_render(tmp_path: Path) -> None:
    records = [
        latency(0.0, subject="zero"),
        latency(1e300, subject="enormous", rounds=2),
        latency(1e-300, subject="tiny", rounds=1),
        measured("latency", (1.7e308, 1.7e308), subject="largest"),
        measured("peak_memory", (0.0,), subject="zero"),
        latency(0.01, subject="timm", role="reference", rounds=1),
    ]
    text = render(load(write_run(tmp_path / "run", list(records))))
    assert "not a possible time" in text


def test_references_alone_render(tmp_path: Path) -> None:
    records = [r for r in compared("resnet18", "infer", 0.02) if getattr(r, "role", "") == "reference"]
    assert "torchvision" in render(load(write_run(tmp_path / "run", records)))


def test_the_kill_matrix(run: Run) -> None:
    strength, trouble = read_strength(run.folder)
    assert trouble == ""
    assert strength is not None
    assert list(strength.mutants["state"]) == ["killed", "survived", "killed by another check only"]
    assert list(strength.alarms["name"]) == ["flattened"]
    assert strength.sentence == (
        "2 of 3 faulty variants were rejected (1 only by a check other than the one that must); "
        "1 of 2 correct, differently written subjects raised a false alarm."
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"checks": []}', '{"checks": [], "mutants": [{}], "correct": []}'])
def test_a_broken_kill_matrix_is_said(tmp_path: Path, content: str) -> None:
    folder = write_run(tmp_path / "run", [check("shapes")])
    (folder / "mutants.json").write_text(content)
    assert "mutants.json isn&#39;t a kill matrix" in render(load(folder))


def test_the_page_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [check("shapes")])
    assert write(folder) == folder / "report.html"
    assert write(folder, output=tmp_path / "page.html").is_file()
    with pytest.raises(RunError, match="No such file or directory"):
        write(folder, output=tmp_path / "nowhere" / "page.html")
    assert sorted(p.name for p in folder.iterdir()) == ["environment.json", "records.jsonl", "report.html"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", [check("shapes")])
    assert main(["latest", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert main([str(folder), "--against", "latest", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report-against-run.html")
    assert main(["nothing", "--results", str(tmp_path)]) == 4
    error = capsys.readouterr().err
    assert error.startswith("error: no run 'nothing'")
    assert error.count("\n") == 1


def test_rendering_imports_no_torch(run: Run) -> None:
    """A report renders on a laptop without it."""
    code = (
        "import sys\n"
        "from reports.pages.run_page import render; from reports.frames.run import load\n"
        "print(len(render(load(sys.argv[1]))), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    size, torch = done.stdout.split()
    assert int(size) > 100_000
    assert torch == "False"


def test_importing_the_api_imports_nothing_heavy() -> None:
    heavy = ("torch", "altair", "scipy", "vl_convert")
    used = "reports.frames, reports.pages.run_page, reports.comparison.changes"
    code = f"import sys, {used}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
