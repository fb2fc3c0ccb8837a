"""How it was measured: the environment, and what was skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.drawing import units
from reports.sections.checks import skips
from reports.sections.section import Block, Section, Source


def section(source: Source) -> Section:
    """Always there: a page says how its figures came about."""
    content = {
        "environment": environment_rows(source.run.environment),
        "skips": skips(source.run.checks).to_dict("records"),
    }
    return Section(
        id="measured",
        title="How this was measured",
        link="How measured",
        blocks=[Block(kind="measured", content=content)],
    )


def environment_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts as text, amounts of memory in units that fit."""
    rows = []
    for name, value in facts.items():
        if name.endswith("_bytes") and isinstance(value, int | float):
            rows.append((name.removesuffix("_bytes"), units.size(float(value))))
        elif isinstance(value, list):
            rows.append((name, "\n".join(str(v) for v in value) or "none"))
        else:
            rows.append((name, "not known" if value is None else str(value)))
    return rows
