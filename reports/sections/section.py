"""What a section is: a function from what a page is of to a title with charts, tables and text; or to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.drawing.tables import Table
from reports.drawing.vega import Chart
from reports.frames.ratios import ratios, speeds

if TYPE_CHECKING:
    from reports.comparison.changes import Comparison
    from reports.frames.run import Run


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a page is of: a run, what more than one section derives from it, and the comparison with an earlier run."""

    run: Run
    comparison: Comparison | None = None

    @cached_property
    def ratios(self) -> pd.DataFrame:
        """Of `reports.frames.ratios.ratios`."""
        return ratios(self.run)

    @cached_property
    def speeds(self) -> pd.DataFrame:
        """Of `reports.frames.ratios.speeds`."""
        return speeds(self.run)

    @cached_property
    def names(self) -> list[str]:
        """Subjects, then references: one order, so that an implementation has one colour on all charts."""
        ours = self.speeds["role"] == "subject"
        return list(dict.fromkeys([*self.speeds.loc[ours, "subject"], *self.speeds.loc[~ours, "subject"]]))


@dataclass(frozen=True, kw_only=True)
class Block:
    """``content`` as the macro ``kind`` of ``templates/sections.html.j2`` writes it."""

    kind: str
    content: Any

    @property
    def charts(self) -> list[Chart]:
        """Those in it."""
        return [c for c in self.content if isinstance(c, Chart)] if isinstance(self.content, list) else []


@dataclass(frozen=True, kw_only=True)
class Section:
    """Without blocks it isn't shown, and only its ``notices`` are, at the top of the page."""

    id: str
    title: str
    link: str = ""
    """Words in the list of sections; "" leaves it out there."""
    blocks: Sequence[Block] = ()
    notices: Sequence[str] = ()


def charts(drawn: Sequence[Chart]) -> Block:
    """One below the other."""
    return Block(kind="charts", content=list(drawn))


def pair(drawn: Sequence[Chart]) -> Block:
    """Two beside each other where the window is wide."""
    return Block(kind="pair", content=list(drawn))


def tables(made: Sequence[Table]) -> Block:
    """One below the other."""
    return Block(kind="tables", content=list(made))


def folded(held: Sequence[Table | Chart]) -> Block:
    """Each behind its title; short tables are open."""
    return Block(kind="folded", content=list(held))


def text(sentence: str) -> Block:
    """A paragraph."""
    return Block(kind="text", content=sentence)


def filled(*blocks: Block) -> list[Block]:
    """Those that hold something."""
    return [block for block in blocks if block.content]
