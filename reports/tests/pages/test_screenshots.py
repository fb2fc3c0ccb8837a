"""The page in a real browser: a Chromium that is already there, found on PATH or named by CHROMIUM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.pages.screenshots import DRAWN, chromium, running, screenshots
from reports.tests.made_runs import SCRIPT

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on PATH (on Debian: apt-get install chromium), and CHROMIUM names none"
)

ROWS_LEFT = """left => [...document.querySelectorAll('#table-ratios tbody tr')]
    .filter(row => row.getClientRects().length).length === left"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api", reason="playwright (a test extra) isn't installed")
    with running() as browser:
        yield browser


@pytest.fixture(scope="module", params=["light", "dark"])
def opened(request: pytest.FixtureRequest, browser: Any, page: Path) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page opened from the disk, what it wrote to the console, and what it asked for."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    console: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: console.append(f"error: {error}"))

    def refuse(dialog: Any) -> None:
        console.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    tab.on("dialog", refuse)
    tab.on("request", lambda asking: asked.append(asking.url))
    tab.goto(page.as_uri())
    tab.wait_for_function(DRAWN, timeout=30_000)
    yield tab, console, asked
    context.close()


def test_it_asks_for_nothing_and_complains_of_nothing(opened: tuple[Any, list[str], list[str]], page: Path) -> None:
    _, console, asked = opened
    assert console == []
    assert [address for address in asked if not address.startswith("data:")] == [page.as_uri()]


def test_every_chart_is_drawn(opened: tuple[Any, list[str], list[str]]) -> None:
    tab, _, _ = opened
    marks = "charts => charts.map(c => c.querySelectorAll('svg .mark-symbol path, svg .mark-rect path').length)"
    folded = tab.locator("details.folded:not([open]) > summary")
    for _ in range(folded.count()):
        folded.first.click()  # what it holds is drawn when it is opened
    tab.wait_for_function("[...document.querySelectorAll('.chart')].every(c => c.querySelector('svg'))")
    drawn = tab.eval_on_selector_all(".chart", marks)
    assert len(drawn) >= 10
    assert min(drawn) > 0


def test_hostile_names_show_as_text(opened: tuple[Any, list[str], list[str]]) -> None:
    tab, _, _ = opened
    assert tab.get_by_text(f"check{SCRIPT}", exact=True).first.is_visible()


def test_sorting_keeps_what_is_not_ranked_below(opened: tuple[Any, list[str], list[str]]) -> None:
    tab, _, _ = opened
    heading = tab.locator("#table-ratios thead th", has_text="throughput")
    read = "rows => rows.map(r => [r.classList.contains('sunk'), parseFloat(r.cells[5].textContent)])"
    orders = []
    for direction in ("ascending", "descending"):
        heading.locator("[role=button]").press("Enter")  # by keyboard
        tab.locator(
            f"#table-ratios th[aria-sort='{direction}']", has_text="throughput"
        ).wait_for()  # sorts in its own time
        rows = tab.eval_on_selector_all("#table-ratios tbody tr", read)
        sunk = [flagged for flagged, _ in rows]
        assert sunk == sorted(sunk)
        orders.append([value for flagged, value in rows if not flagged and value == value])
    assert len(orders[0]) == 8
    assert orders[0] == sorted(orders[0])
    assert orders[1] == orders[0][::-1]


def test_filtering(opened: tuple[Any, list[str], list[str]]) -> None:
    tab, _, _ = opened
    rows = tab.locator("#table-ratios tbody tr:visible")
    everything = rows.count()
    assert everything > 2
    for asked, left in (("resnet50 timm", 2), ("", everything)):
        tab.locator("input[data-filters='table-ratios']").fill(asked)
        tab.wait_for_function(ROWS_LEFT, arg=left, timeout=30_000)


def test_a_mark_of_the_matrix_leads_to_its_explanation(opened: tuple[Any, list[str], list[str]]) -> None:
    tab, _, _ = opened
    explanation = tab.get_by_text("is a ResNet-34 in truth")
    tab.locator("table.matrix a.mark.xfailed").first.click()
    explanation.wait_for(state="visible", timeout=30_000)  # the page unfolds it once the browser says that it has moved


@pytest.mark.parametrize("width", [360, 1280])
def test_no_width_makes_the_whole_page_scroll_sideways(browser: Any, page: Path, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 800})
    tab.goto(page.as_uri())
    tab.wait_for_function(DRAWN, timeout=30_000)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


def test_it_reads_without_scripts(browser: Any, page: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert tab.locator("#table-speeds tbody tr").count() > 5
    context.close()


def test_no_serious_fault_of_accessibility(opened: tuple[Any, list[str], list[str]]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe (a test extra) isn't installed")
    tab, _, _ = opened
    faults = axe.Axe().run(tab).response["violations"]
    serious = [fault for fault in faults if fault["impact"] in ("serious", "critical")]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in serious] == []


def test_tables_work_before_all_charts_are_drawn(browser: Any, page: Path) -> None:
    tab = browser.new_page()
    tab.goto(page.as_uri(), wait_until="commit")
    tab.wait_for_function("document.documentElement.dataset.ready === 'true'")
    assert tab.evaluate("document.documentElement.dataset.charts === undefined")
    assert tab.locator("#table-ratios th[aria-label], #table-ratios [role=button]").count() > 5
    tab.close()


def test_its_pictures_are_written(browser: Any, page: Path) -> None:
    pictures = screenshots(page, browser)
    assert [picture.stem.rsplit("-", 1)[1] for picture in pictures] == ["light", "dark", "narrow"]
    assert min(picture.stat().st_size for picture in pictures) > 10_000
