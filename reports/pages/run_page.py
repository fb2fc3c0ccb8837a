"""One self-contained HTML page of a run: opens from the disk without a network, and escapes every name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from reports.comparison.changes import Comparison, compare
from reports.drawing import units
from reports.drawing.tables import csv_address
from reports.drawing.vega import Chart
from reports.frames.ratios import ratios, speeds
from reports.frames.run import Run, load
from reports.pages.render import fill, save
from reports.sections import checks
from reports.sections.changes import change_chart, comparison_tables
from reports.sections.checks import MEANING, SYMBOLS, findings, matrices, skips
from reports.sections.costs import cost_charts, memory_by_kind, memory_chart
from reports.sections.detection import coverage_charts, pictures, precision_charts, precision_curves, precision_tables
from reports.sections.families import attention_charts, depth_charts, gradient_norms, scaling, scaling_charts
from reports.sections.fine_tuning import curve_charts, curve_tables, curves
from reports.sections.kill_matrix import KILLS, heat_chart, read_strength, strength_tables
from reports.sections.noise_study import noise_tables, read_noise
from reports.sections.roofline import pareto_charts, roofline, roofline_charts
from reports.sections.speed import bar_chart, implementations, latency_chart, ratio_charts, speed_tables
from reports.sections.zoo import SUITE as ZOO
from reports.sections.zoo import sentence, zoo, zoo_charts, zoo_tables

LARGEST_SAMPLES = 1_000_000
"""Bytes of raw samples that the page carries; beyond them it points to ``records.jsonl``."""


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
    ratio_frame, speed_frame = ratios(run), speeds(run)
    state, verdict = checks.verdict(run, ratio_frame)
    charts = _charts(run, ratio_frame, speed_frame, comparison)
    listed = zoo(run, speed_frame)
    charts["zoo"] = zoo_charts(listed)
    strength, trouble = read_strength(run.folder)
    if strength is not None and len(strength.cells):
        charts["strength"] = [heat_chart(strength.cells, list(strength.mutants["name"]), caption=KILLS)]
    noise, unread = read_noise(run.folder)
    drawn = [chart for group in charts.values() for chart in group]
    return fill(
        "page.html.j2",
        drawn,
        run=run,
        title=run.environment.get("started") or run.id,
        state=state,
        verdict=verdict,
        notices=[*run.notices, *filter(None, (trouble, unread))],
        matrices=matrices(run.checks[run.checks["suite"] != ZOO]),
        meaning=MEANING,
        symbols=SYMBOLS,
        findings=findings(run.checks),
        skips=skips(run.checks),
        checks_csv=csv_address(run.checks.drop(columns="details")),
        tables=speed_tables(ratio_frame, speed_frame),
        fine_tuning_tables=curve_tables(curves(run)),
        detection_tables=precision_tables(precision_curves(run)),
        pictures=pictures(run.folder),
        zoo_sentence=sentence(listed) if len(listed) else "",
        zoo_tables=zoo_tables(listed),
        comparison=comparison,
        comparison_tables=comparison_tables(comparison) if comparison else [],
        strength=strength,
        strength_tables=strength_tables(strength) if strength else [],
        noise=noise,
        noise_tables=noise_tables(noise) if noise else [],
        charts=charts,
        environment=_environment(run.environment),
        samples_csv=_samples_csv(run),
        count=units.count,
    )


def _charts(
    run: Run, ratio_frame: pd.DataFrame, speed_frame: pd.DataFrame, comparison: Comparison | None
) -> dict[str, list[Chart]]:
    names = implementations(speed_frame)
    peak = speed_frame["matmul_peak"].max()
    kept = [
        latency_chart(speed_frame, names),
        bar_chart(
            speed_frame,
            names,
            "images_per_second",
            title="Throughput",
            axis="images/s",
            caption="Longer is faster: images per second at the median time of a batch. Absolute figures hold for this "
            "machine and moment only; the ratios above are what to judge by.",
        ),
        bar_chart(
            speed_frame,
            names,
            "peak_memory",
            title="Peak memory",
            axis="MB",
            caption="Shorter is leaner: the most that was allocated at once during one step, in megabytes (10⁶ bytes).",
            scale=1e-6,
        ),
        bar_chart(
            speed_frame,
            names,
            "peak_share",
            title="Share of the matmul peak",
            axis="achieved ÷ peak, %",
            caption="How much of the arithmetic that this machine was measured to do in matrix products "
            f"({units.rate(float(peak))}) each implementation reaches, in percent. Short bars are bound by memory "
            "or overhead, not by arithmetic.",
            scale=100,
        ),
    ]
    charts = {"ratios": ratio_charts(ratio_frame, names), "speed": [chart for chart in kept if chart is not None]}
    memory = memory_chart(memory_by_kind(run))
    charts["costs"] = [*([memory] if memory else []), *cost_charts(run, names)]
    charts["efficiency"] = [
        *roofline_charts(roofline(run, speed_frame), names),
        *pareto_charts(speed_frame[speed_frame["suite"] != ZOO], names),
    ]
    charts["scaling"] = scaling_charts(scaling(run, speed_frame))
    charts["depth"] = depth_charts(gradient_norms(run))
    charts["attention"] = attention_charts(run)
    charts["fine_tuning"] = curve_charts(curves(run))
    charts["detection"] = [*precision_charts(precision_curves(run)), *coverage_charts(run)]
    change = change_chart(comparison.frame("time")) if comparison else None
    charts["change"] = [change] if change else []
    return charts


def _environment(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in facts.items():
        if name.endswith("_bytes") and isinstance(value, int | float):
            rows.append((name.removesuffix("_bytes"), units.size(float(value))))
        elif isinstance(value, list):
            rows.append((name, "\n".join(str(v) for v in value) or "none"))
        else:
            rows.append((name, "not known" if value is None else str(value)))
    return rows


def _samples_csv(run: Run) -> str:
    """Raw samples as a CSV address; empty where there are none, or too many for the page."""
    address = csv_address(run.samples) if 0 < len(run.samples) < LARGEST_SAMPLES // 40 else ""
    return address if len(address) <= LARGEST_SAMPLES else ""
