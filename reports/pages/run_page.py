"""One self-contained HTML page of a run: opens from the disk without a network, and escapes every name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reports.comparison.changes import Comparison, compare
from reports.frames.run import Run, load
from reports.pages.render import fill, save
from reports.sections import (
    changes,
    checks,
    detection,
    families,
    fine_tuning,
    kill_matrix,
    measured,
    noise_study,
    speed,
    zoo,
)
from reports.sections.section import Section, Source

SECTIONS: tuple[Callable[[Source], Section | None], ...] = (
    changes.section,
    checks.matrix_section,
    checks.failures_section,
    speed.section,
    families.scaling_section,
    fine_tuning.section,
    families.depth_section,
    families.attention_section,
    detection.section,
    zoo.section,
    kill_matrix.section,
    noise_study.section,
    measured.section,
)
"""In the order of the page."""


def write(run_folder: str | Path, against: str | Path | None = None, output: str | Path | None = None) -> Path:
    """Write the page of a run and return its path.

    ``run_folder`` and ``against`` are folders of runs. Without ``output`` the page is ``report.html`` in the run's
    folder, ``report-against-<id>.html`` where it is compared. Raises RunError where a run can't be read, or the page
    can't be written.
    """
    folder = Path(run_folder)
    run = load(folder)
    comparison = compare(load(Path(against)), run) if against is not None else None
    name = f"report-against-{comparison.before.id}.html" if comparison else "report.html"
    path = Path(output) if output is not None else folder / name
    return save(path, render(run, comparison))


def render(run: Run, comparison: Comparison | None = None) -> str:
    """The page as text."""
    from altair.utils.schemapi import debug_mode

    with debug_mode(False):  # the drawings are this project's own and tested: checking each costs seconds
        return _render(run, comparison)


def _render(run: Run, comparison: Comparison | None) -> str:
    source = Source(run=run, comparison=comparison)
    made = [section for make in SECTIONS if (section := make(source)) is not None]
    state, verdict = checks.verdict(run, source.ratios)
    return fill(
        "page.html.j2",
        [chart for section in made for block in section.blocks for chart in block.charts],
        run=run,
        state=state,
        verdict=verdict,
        comparison=comparison,
        notices=[*run.notices, *(notice for section in made for notice in section.notices)],
        sections=[section for section in made if section.blocks],
    )
