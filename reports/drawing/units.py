"""Amounts as a person reads them: units that fit, three significant digits, a dash for what isn't known."""

from __future__ import annotations

import math

UNKNOWN = "–"


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    if not math.isfinite(value):
        return UNKNOWN if math.isnan(value) else "∞"
    size, unit = next(((s, u) for s, u in steps if abs(value) >= s), steps[-1])
    amount = value / size
    digits = 3 if abs(amount) < 1 else 2 if abs(amount) < 10 else 1 if abs(amount) < 100 else 0
    text = f"{amount:,.{digits}f}" if abs(amount) < 1e6 else f"{amount:.2e}"
    return f"{text} {unit}".strip()


def seconds(value: float) -> str:
    """0.0123 -> 12.3 ms."""
    return _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs")))


def size(value: float) -> str:
    """Bytes in decimal units: 123456789 -> 123 MB."""
    return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")))


def flops(value: float) -> str:
    """8.2e9 -> 8.20 GFLOP."""
    return _scaled(value, ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1, "FLOP")))


def rate(value: float) -> str:
    """1.2e11 -> 120 GFLOP/s."""
    return _scaled(value, ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"), (1, "FLOP/s")))


def number(value: float) -> str:
    """A figure without a unit: 25557032 -> 25,557,032, 12.34 -> 12.3."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return _scaled(value, ((1, ""),))


def ratio(value: float) -> str:
    """1.0412 -> 1.041×."""
    if not math.isfinite(value):
        return UNKNOWN if math.isnan(value) else "∞"
    return f"{value:.3f}×" if 1e-3 <= value < 1e4 or value == 0 else f"{value:.2e}×"


def interval(low: float, high: float) -> str:
    """Bounds of a ratio: 1.021 to 1.060; a dash where unknown."""
    if math.isnan(low) or math.isnan(high):
        return UNKNOWN
    return f"{ratio(low).removesuffix('×')} to {ratio(high).removesuffix('×')}"


def percent(value: float) -> str:
    """0.123 -> 12.3 %."""
    return f"{value:.1%}".replace("%", " %") if math.isfinite(value) else UNKNOWN


def band(floor: float) -> str:
    """A noise floor in log units as a percentage: 0.02 -> ±2.0 %; a dash where there is none."""
    return f"±{percent(math.expm1(floor))}" if floor < math.log(1e6) else UNKNOWN


def count(amount: int, thing: str, things: str = "") -> str:
    """1 -> "1 check", 2 -> "2 checks"."""
    return f"{amount:,} {thing if amount == 1 else things or thing + 's'}"
