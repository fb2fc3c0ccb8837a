"""``python -m harness.sweep SELECTION``: the suites on many machines, into one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from harness.errors import RequestError

USAGE = 4
"""Exit code of a request that makes no sense, as pytest's."""
EXAMPLES = """\
Everything else goes to pytest, as in `pytest suites/resnet --subject my_models.py --arch 'resnet*' --benchmark`.

examples:
  python -m harness.sweep suites/ --benchmark --dry-run                         what it would do, and how long
  python -m harness.sweep suites/zoo --subject timm.models --arch '*resnet*'    on this machine
  python -m harness.sweep suites/ --benchmark --address ray://head:10001 --gpus-per-task 1 --repeats 3
  python -m harness.sweep --resume 20260101T120000-ab12 --address auto          go on with what was interrupted
"""


def parser() -> argparse.ArgumentParser:
    """The sweep's own options."""
    made = argparse.ArgumentParser(
        prog="python -m harness.sweep",
        description="Run a selection of the suites on a Ray cluster: a process per architecture, subject and setting.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--address", default="local", help="local (this machine), auto, HOST:PORT or ray://HOST:PORT (default local)"
    )
    made.add_argument("--gpus-per-task", type=float, default=0.0, metavar="N", help="GPUs of each task (default 0)")
    made.add_argument(
        "--cpus-per-task",
        type=int,
        default=0,
        metavar="N",
        help="cores of each task, its own while it runs (default: 1, or all of the smallest node's with --benchmark)",
    )
    made.add_argument("--repeats", type=int, default=1, metavar="N", help="processes per benchmark (default 1)")
    made.add_argument("--attempts", type=int, default=3, metavar="N", help="tries before a test is given up (3)")
    made.add_argument(
        "--task-timeout", type=float, default=3600.0, metavar="SECONDS", help="limit of each task (default 3600)"
    )
    made.add_argument("--results", default="results", metavar="DIR|URL", help="where the run is kept (default results)")
    made.add_argument("--resume", default="", metavar="RUN", help="go on with an interrupted sweep, from its own plan")
    made.add_argument("--dry-run", action="store_true", help="print the tasks with an estimate, and run nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; pytest's exit codes: 0 all held, 1 something failed, 2 interrupted, 4 the request made no sense."""
    given, rest = parser().parse_known_args(arguments)
    if find_spec("ray") is None and not given.dry_run:
        print("error: a sweep needs Ray: pip install -e '.[sweep]'", file=sys.stderr)
        return USAGE
    try:
        _validate(given)
        from harness.sweep.driver import dry_run, sweep

        if not any(Path(argument.split("::")[0]).exists() for argument in rest) and not given.resume:
            rest = ["suites", *rest]
        return dry_run(given, rest) if given.dry_run else sweep(given, rest)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE


def _validate(given: argparse.Namespace) -> None:
    if given.gpus_per_task < 0:
        raise RequestError(f"--gpus-per-task {given.gpus_per_task:g}: expected 0 or more")
    if given.cpus_per_task < 0:
        raise RequestError(f"--cpus-per-task {given.cpus_per_task}: expected a positive number of cores")
    for option in ("repeats", "attempts", "task_timeout"):
        value = getattr(given, option)
        if value <= 0:
            raise RequestError(f"--{option.replace('_', '-')} {value:g}: expected a positive number")


if __name__ == "__main__":
    sys.exit(main())
