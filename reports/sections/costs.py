"""What a step costs: its memory by kind beside the prediction, and how time and memory grow with its size."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.drawing.tables import csv_address
from reports.drawing.vega import (
    DRAWABLE,
    PALETTE,
    Chart,
    colour,
    height_of,
    inline_data,
    legend,
    logarithmic,
    rows_of,
    settings,
    specification,
)
from reports.frames.cost_curves import cost_curves
from reports.frames.ratios import NOT_RANKED, SETTING

if TYPE_CHECKING:
    from reports.frames.run import Run

KINDS = (
    "parameters",
    "buffers",
    "gradients",
    "optimizer_state",
    "batch",
    "activations",
    "temporaries",
    "workspace",
)
"""Of `harness.measure.memory_prediction`, and the workspace: what was measured beyond the tensors that are known."""
MEMORY_COLUMNS = ["suite", "subject", *SETTING[1:], "kind", "bytes", "predicted", "measured", "flag"]
CURVES = {"latency": ("Time of a batch", "ms", 1e3), "peak_memory": ("Peak memory of a step", "MB", 1e-6)}
AXES = {"batch_size": ("batch", "images"), "input_size": ("image", "px")}


def memory_by_kind(run: Run) -> pd.DataFrame:
    """One row per subject, setting and kind of memory.

    ``suite``, ``subject``, ``architecture``, ``mode``, ``device``, ``dtype``, ``memory_format``, ``compile``, ``kind``,
    ``flag`` (str); ``batch_size``, ``input_size`` (int64); ``bytes`` (float64): at the peak of a step; ``predicted``
    and ``measured`` (float64, byte, of all kinds together; NaN where not known).
    """
    frame = run.measurements
    predicted = _details(frame, "predicted_memory")
    rows = []
    for key, row in _details(frame, "peak_memory").items():
        kinds = row["details"].get("breakdown")
        if not isinstance(kinds, dict):
            continue
        said = predicted.get(key, {"maximum": math.nan, "details": {}})
        total = said["details"].get("measured", sum(kinds.values()))
        known = {name: row[name] for name in ("suite", "subject", *SETTING[1:], "flag")}
        known |= {"predicted": said["maximum"], "measured": total}
        rows += [known | {"kind": kind, "bytes": kinds[kind]} for kind in KINDS if kinds.get(kind)]
    whole = dict.fromkeys(("bytes", "predicted", "measured"), "float64")
    return pd.DataFrame(rows, columns=MEMORY_COLUMNS).astype(whole)


def _details(frame: pd.DataFrame, quantity: str) -> dict[Any, dict[Any, Any]]:
    """The last row of each subject and setting, by both."""
    rows = frame[(frame["quantity"] == quantity) & (frame["role"] == "subject") & (frame["replicate"] == 0)]
    return {tuple(row[n] for n in (*SETTING, "subject")): row for row in rows.to_dict("records")}


def memory_chart(memory: pd.DataFrame) -> Chart | None:
    """Stacked kinds, with a tick where the peak was predicted; None where nothing was broken down."""
    import altair as alt

    known = memory[memory["bytes"].between(*DRAWABLE)]
    if not len(known):
        return None
    labels, alike = settings(known.to_dict("records"))
    told = [n for n in ("memory_format", "compile", "subject") if known[n].nunique() > 1]
    rows = [
        {
            "setting": " · ".join([label, *(row[n] or "eager" for n in told)]),
            "kind": row["kind"].replace("_", " "),
            "MB": row["bytes"] / 1e6,
            "order": KINDS.index(row["kind"]),
            "predicted": row["predicted"] / 1e6 if math.isfinite(row["predicted"]) else None,
        }
        for label, row in zip(labels, known.to_dict("records"), strict=True)
    ]
    held = [kind.replace("_", " ") for kind in KINDS if kind in set(known["kind"])]
    shades = alt.Scale(domain=held, range=[PALETTE[KINDS.index(k.replace(" ", "_")) % len(PALETTE)] for k in held])
    base = alt.Chart(inline_data(rows)).encode(y=rows_of("setting"))
    bars = base.mark_bar().encode(
        x=alt.X("MB:Q", title="MB", stack="zero"),
        color=alt.Color("kind:N", title=None, scale=shades, legend=legend()),
        order="order:Q",
        tooltip=["setting:N", "kind:N", alt.Tooltip("MB:Q", format=",.4~g")],
    )
    tick = base.mark_tick(thickness=2, size=16, color="#d1495b").encode(
        x="predicted:Q", tooltip=["setting:N", alt.Tooltip("predicted:Q", format=",.4~g", title="predicted, MB")]
    )
    return Chart(
        name="memory-kinds",
        title="Memory by kind",
        caption=(
            "What fills the memory at the peak of a step: the longest part is the one to save on. The red tick is "
            "the peak predicted on tensors without storage; a bar that ends right of it holds workspace that operators "
            f"took for themselves. Megabytes (10⁶ bytes).{alike}"
        ),
        spec=specification(alt.layer(bars, tick), height=height_of(len({r["setting"] for r in rows}))),
        csv=csv_address(known),
    )


def cost_charts(run: Run, names: Sequence[str]) -> list[Chart]:
    """Time and memory against the batch and the side of the image, for each that has three sizes or more."""
    curves = cost_curves(run)
    charts = []
    for axis in AXES:
        for quantity in CURVES:
            of_these = curves[(curves["axis"] == axis) & (curves["quantity"] == quantity)]
            chart = _curve_chart(of_these, names, axis, quantity) if len(of_these) else None
            if chart is not None:
                charts.append(chart)
    return charts


def _curve_chart(curves: pd.DataFrame, names: Sequence[str], axis: str, quantity: str) -> Chart | None:
    import altair as alt

    what, unit, scale = CURVES[quantity]
    noun, size_unit = AXES[axis]
    told = [name for name in ("device", "dtype", "memory_format", "compile", "fixed") if curves[name].nunique() > 1]
    rows = []
    for row in curves.to_dict("records"):
        fitted = f"{row['exponent']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        detail = " ".join(str(row[n]) for n in ("device", "dtype", "memory_format", "compile", "fixed"))
        for size, amount in zip(row["sizes"], row["amounts"], strict=True):
            if DRAWABLE[0] <= amount <= DRAWABLE[1]:
                rows.append(
                    {
                        "model": " · ".join(_which(row, told, axis)),
                        "implementation": row["subject"],
                        "setting": detail,
                        "state": NOT_RANKED if row["flag"] else "ranked",
                        "size": size,
                        "amount": amount * scale,
                        "exponent": fitted if math.isfinite(row["exponent"]) else "none",
                    }
                )
    if not rows:
        return None
    across, _ = logarithmic([r["size"] for r in rows])
    ticks = alt.Axis(values=sorted({r["size"] for r in rows}), format="~g", grid=True)  # what was measured
    up, levels = logarithmic([r["amount"] for r in rows])
    models = list(dict.fromkeys(r["model"] for r in rows))
    dashes = [[1, 0], [5, 3], [2, 2], [8, 3, 2, 3]]
    base = alt.Chart(inline_data(rows)).encode(
        x=alt.X("size:Q", title=f"{noun}, {size_unit}", scale=across, axis=ticks),
        y=alt.Y("amount:Q", title=unit, scale=up, axis=levels),
        color=colour("implementation", names, rows),
        strokeDash=alt.StrokeDash(
            "model:N",
            title=None,
            scale=alt.Scale(domain=models, range=[dashes[i % len(dashes)] for i in range(len(models))]),
            legend=legend("bottom"),
        ),
        detail="setting:N",
        opacity=alt.condition(f"datum.state === '{NOT_RANKED}'", alt.value(0.3), alt.value(1)),
        tooltip=["model:N", "implementation:N", "size:Q", alt.Tooltip("amount:Q", title=unit), "exponent:N", "state:N"],
    )
    layers = alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=45, filled=True))
    return Chart(
        name=f"cost-{quantity}-{axis}".replace("_", "-"),
        title=f"{what} against the {noun}'s size",
        caption=(
            f"A straight line is a power of the size, its exponent is in the data: {_exponents(curves, told, axis)}. "
            + (
                "1 is proportional to the batch, less means that a larger one is used better. "
                if axis == "batch_size"
                else "2 is proportional to the pixels. "
            )
            + f"Both scales logarithmic, {unit}."
        ),
        spec=specification(layers, height=260),
        csv=csv_address(curves),
    )


def _which(row: Mapping[Hashable, Any], told: Sequence[str], axis: str) -> list[str]:
    """Architecture and mode of a curve, and of its settings those that differ between curves."""
    named = {"compile": row["compile"] or "eager", "fixed": _fixed(row["fixed"], axis)}
    return [row["architecture"], row["mode"], *(str(named.get(name, row[name])) for name in told)]


def _fixed(value: int, axis: str) -> str:
    """The other size, in words."""
    return f"{value} px" if axis == "batch_size" else f"batch {value}"


def _exponents(curves: pd.DataFrame, told: Sequence[str], axis: str) -> str:
    found = curves[(curves["role"] == "subject") & curves["exponent"].notna()].head(4)
    parts = [f"{' '.join(_which(row, told, axis))}: {row['exponent']:.2f}" for row in found.to_dict("records")]
    return ", ".join(parts) or "none could be fitted"
