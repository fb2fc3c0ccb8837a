"""``python -m reports``: pages, tables and comparisons of runs."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.records.runs import brought_here, resolve

EXAMPLES = """\
examples:
  python -m reports html latest                      the page of the newest run in results/ ("html" may be left out)
  python -m reports open latest                      the same, shown in the browser
  python -m reports html RUN --against EARLIER       what changed since an earlier run
  python -m reports compare BASE NEW                 the same as verdicts in the terminal, exit code 1 on a regression
  python -m reports table RUN --frame ratios         a table in the terminal; --format markdown, csv or latex
  python -m reports history                          all runs over time: since when, and since which commit

A run is given by its id, its folder, a URL (s3://..., gs://...) or as 'latest'.
"""
FRAMES = ("checks", "speeds", "ratios", "measurements", "samples")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for; 0, 1 where a comparison found a regression, 4 with one line of explanation."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["compare"]:
        from reports.comparison.command import main as compare

        return compare(words[1:])
    if words and words[0] not in ("html", "open", "table", "history") and not words[0].startswith("-"):
        words.insert(0, "html")
    given = _parser().parse_args(words)
    try:
        if given.command == "history":
            print(_history(given))
        elif given.command == "table":
            print(_table(given))
        else:
            print(_page(given))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="What came of runs: what failed, how fast, how much memory, what changed, and since when.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    where: dict[str, Any] = {
        "metavar": "DIR",
        "default": "results",
        "help": "where runs are kept, a folder or URL (default: results)",
    }
    for name, says in (("html", "write the page of a run"), ("open", "write it and show it in the browser")):
        page = commands.add_parser(name, help=says, description=says)
        page.add_argument("run", metavar="RUN", help="a run's id, its folder or URL, or 'latest'")
        page.add_argument("--against", metavar="RUN", help="an earlier run to compare with")
        page.add_argument("--output", metavar="FILE", type=Path, help="where to write (default: in the run's folder)")
        page.add_argument(
            "--pictures", action="store_true", help="also screenshots, light, dark and narrow (playwright)"
        )
        page.add_argument("--results", **where)
    commands.add_parser("compare", help="two runs in the terminal, with an exit code", add_help=False)
    table = commands.add_parser("table", help="print a frame of a run", description="Print a frame of a run.")
    table.add_argument("run", metavar="RUN", help="a run's id, its folder or URL, or 'latest'")
    table.add_argument("--frame", choices=FRAMES, default="checks", help="which (default: checks)")
    table.add_argument("--format", choices=("terminal", "markdown", "csv", "latex"), default="terminal")
    table.add_argument("--columns", metavar="NAMES", help="comma-separated; default: all that differ between rows")
    table.add_argument("--results", **where)
    history = commands.add_parser("history", help="all runs over time", description="Write the page of all runs.")
    history.add_argument("--output", metavar="FILE", type=Path, help="where to write (default: history.html in DIR)")
    history.add_argument("--results", **where)
    return parser


def _page(given: argparse.Namespace) -> str:
    run, results = brought_here(given.run, given.results)
    folder = resolve(run, Path(results))
    earlier = None
    if given.against:
        other, others = brought_here(given.against, given.results)
        earlier = resolve(other, Path(others))
    from reports.pages.run_page import write  # pandas and Altair: not for --help or a mistyped run

    page = write(folder, earlier, given.output)
    made = [page]
    if given.pictures:
        from reports.pages.screenshots import screenshots

        try:
            made += screenshots(page)
        except RunError as error:
            raise RunError(f"{page} is written, but {error}") from error
    if given.command == "open":
        webbrowser.open(page.resolve().as_uri())
    return "\n".join(map(str, made))


def _history(given: argparse.Namespace) -> str:
    from reports.frames.history import history
    from reports.pages.history_page import write_history

    output = given.output or Path("." if "://" in given.results else given.results) / "history.html"
    return str(write_history(history(given.results), output, given.results))


def _table(given: argparse.Namespace) -> str:
    from reports.export import printed
    from reports.frames.ratios import ratios, speeds
    from reports.frames.run import checks, load, measurements, samples

    run, results = brought_here(given.run, given.results)
    derive = {each.__name__: each for each in (checks, speeds, ratios, measurements, samples)}[given.frame]
    frame = derive(load(run, results))
    return printed(frame, given.format, given.columns.split(",") if given.columns else None)


if __name__ == "__main__":
    sys.exit(main())
