"""A training on the console: a bar of its steps, which goes when it ends, and a line for each epoch, which stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(label: str, console: Console, *, done: int, steps: int) -> Iterator[Callable[[int, int, float], None]]:
    """A bar of ``steps``, of which ``done`` were done before; with what a trainer calls after each of them: the number
    of steps done, that of all, and the loss."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=steps, completed=done)

        def step(done: int, steps: int, loss: float) -> None:
            progress.update(task, completed=done, description=f"{label} loss {loss:.3f}")

        yield step


def print_epoch(console: Console, line: str) -> None:
    """Print it as it is, above the bar where there is one."""
    console.print(line, markup=False, soft_wrap=True, highlight=False)
