"""The page in a Chromium that is already there: pictures of it to look at. Needs playwright, a test extra."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import RunError

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DRAWN = "document.documentElement.dataset.charts !== undefined"
"""True in the page once every chart is on it."""
LOOKS: Mapping[str, tuple[str, int]] = {"light": ("light", 1280), "dark": ("dark", 1280), "narrow": ("light", 390)}
"""Name of a picture -> colour scheme and width in pixels."""


def chromium() -> str | None:
    """The browser named by CHROMIUM, or found on PATH."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


@contextmanager
def running() -> Iterator[Any]:
    """A headless browser (playwright's). Raises RunError where there is none, or no playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise RunError("pictures need playwright: pip install -e '.[test]'") from error
    path = chromium()
    if path is None:
        raise RunError("pictures need a Chromium on PATH (on Debian: apt-get install chromium), or named by CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def screenshots(page: Path, browser: Any = None) -> list[Path]:
    """Pictures of the whole page beside it, one per entry of `LOOKS`; their paths. Starts a browser unless given one.

    Raises RunError where there is no browser.
    """
    if browser is None:
        with running() as started:
            return screenshots(page, started)
    made = []
    for name, (scheme, width) in LOOKS.items():
        tab = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        tab.goto(page.resolve().as_uri())
        tab.wait_for_function(DRAWN, timeout=30_000)
        made.append(page.with_name(f"{page.stem}-{name}.png"))
        tab.screenshot(path=made[-1], full_page=True)
        tab.close()
    return made
