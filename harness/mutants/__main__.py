"""``python -m harness.mutants``: try the faulty and the correct variants, print and record the kill matrix.

Exit code 1 where a mutant survives or is not rejected by the check that must, where a correct variant is rejected, or
where a check breaks; 4 where nothing is selected.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.mutants.catalogue import correct_variants, mutants, select, turn_of_day
from harness.mutants.matrix import Matrix, Row
from harness.mutants.trial import load_profile
from harness.process.memory_reuse import keep_freed_memory
from harness.records.run_store import new_run_id


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print, record."""
    given = _parser().parse_args(arguments)
    turn = turn_of_day() if given.rotate else 0
    matrix = Matrix(
        mutants=select(mutants(), given.mutants, family=given.family, turn=turn),
        correct_variants=select(correct_variants(), given.mutants, family=given.family, turn=turn),
    )
    console = Console(file=sys.stdout)  # kept, while the checks' own output is caught
    if not matrix.mutants and not matrix.correct_variants:
        known = ", ".join(v.name for v in (*mutants(), *correct_variants()))
        console.print(f"--mutants {given.mutants}: selects none of {known}", markup=False)
        return 4
    load_profile()
    keep_freed_memory()
    logging.getLogger("torch").setLevel(logging.ERROR)  # the compiler's remarks on variants that it can't take whole
    folder = Path(given.results) / new_run_id()
    _run(matrix, given.jobs, folder, console)
    console.print(_table(matrix))
    complaints = matrix.complaints()
    for line in complaints:
        console.print(line, markup=False, soft_wrap=True)
    tried = [matrix.rows[m.name] for m in matrix.mutants if m.name in matrix.rows]
    alarms = sum(bool(matrix.rows[r.name].rejected_by or matrix.rows[r.name].broken) for r in matrix.correct_variants)
    console.print(
        f"{sum(bool(r.rejected_by) for r in tried)} of {len(tried)} faulty variants rejected; "
        f"{alarms} of {len(matrix.correct_variants)} correct ones raised a false alarm"
    )
    console.print(f"recorded: {folder / 'mutants.json'}", markup=False, soft_wrap=True)
    return 1 if complaints else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.mutants", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mutants", default="all", metavar="all|third|GLOB", help="which variants, faulty and correct (default all)"
    )
    parser.add_argument("--family", default="", metavar="NAME", help="only those of one family: resnet, ...")
    parser.add_argument("--rotate", action="store_true", help="with third: another third each day")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--results", default="results", metavar="DIR", help="folder of runs (default results)")
    return parser


def _run(matrix: Matrix, jobs: int, folder: Path, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as progress:
        task = progress.add_task("mutants", total=len(matrix.mutants) + len(matrix.correct_variants))
        for row in matrix.run(jobs):
            progress.update(task, advance=1, description=row.name)
            matrix.write(folder)  # a run that is killed keeps what it had


def _table(matrix: Matrix) -> Table:
    table = Table(title="kill matrix", show_lines=False)
    for column in ("variant", "expected", "rejected by", "evidence"):
        table.add_column(column, overflow="fold")
    table.add_column("seconds", justify="right")
    for mutant in matrix.mutants:
        row = matrix.rows[mutant.name]
        style = "" if mutant.expected_check in row.rejected_by else "red"
        table.add_row(
            mutant.name, mutant.expected_check, _killers(row), f"{row.evidence:.1e}", _seconds(row), style=style
        )
    for variant in matrix.correct_variants:
        row = matrix.rows[variant.name]
        wrong = _killers(row)
        table.add_row(variant.name, "none", wrong, "", _seconds(row), style="red" if wrong else "")
    return table


def _killers(row: Row) -> str:
    return ", ".join([*row.rejected_by, *(f"{v.check} (broke)" for v in row.broken)])


def _seconds(row: Row) -> str:
    return f"{row.seconds:.1f}"


if __name__ == "__main__":
    sys.exit(main())
