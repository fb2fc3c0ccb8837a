"""The layers of a wrong subject beside the reference's: shapes and settings in words, differences first to be seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One aligned pair. ``look`` is "first" for the first layer that differs, "apart" where a setting does."""

    cells: tuple[str, ...]
    look: str = ""


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """Layers in order of execution, and how many of them differ in shape or setting."""

    columns: tuple[str, ...]
    rows: tuple[Layer, ...]
    apart: int


def layer_table(layers: Any, deviation: Any) -> LayerTable | None:
    """The table of ``details["layers"]``, where ``details["deviation"]`` names the first that differs; None without."""
    rows = [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
    if not rows:
        return None
    first = str(deviation.get("subject") or "") if isinstance(deviation, dict) else ""
    with_error = any(row.get("error") not in (None, "") for row in rows)
    columns = ("kind", "subject", "reference", "shape", "settings", *(("relative error",) if with_error else ()))
    made = []
    for row in rows:
        shape, shapes_apart = _pair(row.get("subject_shape"), row.get("reference_shape"), _shape)
        settings, settings_apart = _settings(row.get("subject_hyper"), row.get("reference_hyper"))
        look = "first" if first and row.get("subject") == first else ""
        cells = (*(_text(row.get(name)) for name in ("kind", "subject", "reference")), shape, settings)
        made.append(
            Layer(
                cells=cells + ((_text(row.get("error")),) if with_error else ()),
                look=look or ("apart" if shapes_apart or settings_apart else ""),
            )
        )
    return LayerTable(columns=columns, rows=tuple(made), apart=sum(bool(layer.look) for layer in made))


def _settings(subject: Any, reference: Any) -> tuple[str, bool]:
    """Settings that both share in words; those that differ as "stride 2×2 (reference: 1×1)", in front."""
    if not isinstance(subject, Mapping) or not isinstance(reference, Mapping):
        return _pair(subject, reference, _text)
    apart: list[str] = []
    alike: list[str] = []
    for name in dict.fromkeys([*subject, *reference]):
        said, differs = _pair(subject.get(name), reference.get(name), _shape)
        (apart if differs else alike).append(f"{name} {said}")
    return ", ".join([*apart, *alike]), bool(apart)


def _pair(subject: Any, reference: Any, write: Any) -> tuple[str, bool]:
    if subject == reference or reference in (None, "") or subject in (None, ""):
        return str(write(subject if subject not in (None, "") else reference)), False
    return f"{write(subject)} (reference: {write(reference)})", True


def _shape(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "×".join(_text(part) for part in value)
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
