"""``python -m reports RUN``: the HTML page of a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.reading import RunError, resolve

EXAMPLES = """\
examples:
  python -m reports latest                           the page of the newest run in results/
  python -m reports 20260101T120000-ab12             the page of one run, by its id
  python -m reports results/20260101T120000-ab12     the same, by its folder
  python -m reports latest --against RUN             what changed since an earlier run
  python -m reports compare BASE NEW                 the same as verdicts in the terminal, exit code 1 on a regression
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its path; 0 where it was written, 4 with one line of explanation where not."""
    given_words = list(sys.argv[1:] if arguments is None else arguments)
    if given_words[:1] == ["compare"]:
        from reports.comparing import main as compare

        return compare(given_words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="Write the HTML page of a run: what failed, how fast, how much memory, or what changed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run's id, its folder, or 'latest'")
    parser.add_argument("--against", metavar="RUN", help="an earlier run to compare with")
    parser.add_argument("--output", metavar="FILE", type=Path, help="where to write (default: in the run's folder)")
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=Path("results"), help="where runs are kept (default: results)"
    )
    given = parser.parse_args(given_words)
    try:
        folder = resolve(given.run, given.results)
        earlier = resolve(given.against, given.results) if given.against else None
        from reports.page import write  # pandas and Altair: not for --help or a mistyped run

        print(write(folder, earlier, given.output))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
