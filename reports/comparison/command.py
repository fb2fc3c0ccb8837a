"""``python -m reports compare BASE NEW``: a verdict per row, in the terminal, and a code that a machine understands."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

from harness.errors import RunError
from reports.comparison.changes import (
    BETTER,
    NOTHING,
    UNKNOWN,
    Comparison,
    Judgement,
    compare,
    differences,
    expect_common,
    rank,
)
from reports.drawing import units
from reports.frames.run import load

DESCRIPTION = """\
Compare two runs: time as the ratio to the reference measured beside it, memory, FLOPs, parameters and conformance.
Exit code 0, or 1 where --fail-on says so, or 4 where the runs can't be compared.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison and write what else was asked for; 0 or 1 by ``--fail-on``, 4 with one line of reason."""
    parser = argparse.ArgumentParser(
        prog="python -m reports compare", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="the earlier run: its id, its folder, or 'latest'")
    parser.add_argument("new", metavar="NEW", help="the later run")
    parser.add_argument("--results", metavar="DIR", default="results", help="where runs are kept (default: results)")
    parser.add_argument(
        "--fail-on",
        choices=("regression", "any", "never"),
        default="regression",
        help="what gives exit code 1: something got worse (default), anything changed, or nothing",
    )
    parser.add_argument("--json", metavar="FILE", help="all rows as JSON; - for the standard output")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="all rows as JUnit XML, for a CI's test report")
    parser.add_argument(
        "--markdown", metavar="FILE", type=Path, help="a summary appended as Markdown ($GITHUB_STEP_SUMMARY)"
    )
    given = parser.parse_args(arguments)
    try:
        found = compare(load(given.base, given.results), load(given.new, given.results))
        expect_common(found)
        failed = given.fail_on != "never" and any(
            r.regression or (r.changed and given.fail_on == "any") for r in found.rows
        )
        if given.json == "-":
            print(_json(found, failed))
        else:
            _terminal(found)
        if given.json and given.json != "-":
            Path(given.json).write_text(_json(found, failed) + "\n", encoding="utf-8")
        if given.junit:
            given.junit.write_bytes(_junit(found))
        if given.markdown:
            with given.markdown.open("a", encoding="utf-8") as summary:
                summary.write(_markdown(found))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror or error}", file=sys.stderr)
        return 4
    return int(failed)


def _title(found: Comparison) -> str:
    return f"{found.after.id} against {found.before.id}"


def _name(row: Judgement) -> str:
    return f"{row.architecture} of {row.subject}: {row.kind}, {row.what}"


def _figures(row: Judgement) -> tuple[str, str, str]:
    """Before, after and the change with its interval."""
    if isinstance(row.before, str) or isinstance(row.after, str):
        return str(row.before or "not run"), str(row.after or "not run"), ""
    if math.isnan(row.before) and math.isnan(row.after):
        return "", "", ""
    show = {"time": units.ratio, "memory": units.size, "flops": units.flops}.get(row.kind, units.number)
    change = units.ratio(row.change)
    if not math.isnan(row.low):
        change += f" ({units.interval(row.low, row.high)})"
    return show(row.before), show(row.after), change


def _terminal(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("what", "against", "before", "now", "change (95 %)", "verdict", title=Text(_title(found)))
    for row in sorted(found.rows, key=lambda r: rank(r.verdict)):
        style = "red" if row.regression else "green" if row.verdict in BETTER else ""
        verdict = f"{row.verdict} ({row.why})" if row.why else row.verdict
        cells = (_name(row), row.reference, *_figures(row), verdict)
        table.add_row(*(Text(cell) for cell in cells), style=style)  # Text: a name may hold what rich takes for markup
    console.print(table)
    for line in differences(found.before, found.after):
        console.print(Text(f"the environments differ in {line}"))
    console.print(Text(found.sentence))


def _json(found: Comparison, failed: bool) -> str:
    rows = []
    for row in found.rows:
        plain = {name: value for name, value in asdict(row).items() if name not in ("flag", "floor", "setting")}
        known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
        rows.append(known | {"regression": row.regression})
    content = {
        "title": _title(found),
        "failed": failed,
        "summary": found.sentence,
        "environments": differences(found.before, found.after),
        "rows": rows,
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _junit(found: Comparison) -> bytes:
    """A test case per row: a regression fails, what can't be told is skipped."""
    suite = ElementTree.Element(
        "testsuite",
        name=_printable(_title(found)),
        tests=str(len(found.rows)),
        failures=str(sum(r.regression for r in found.rows)),
        errors="0",
        skipped=str(sum(r.verdict == UNKNOWN for r in found.rows)),
    )
    for row in found.rows:
        name = f"{row.kind}, {row.what}" + (f", against {row.reference}" if row.reference else "")
        where = f"{row.suite}.{row.subject}.{row.architecture}"
        case = ElementTree.SubElement(suite, "testcase", classname=_printable(where), name=_printable(name))
        before, after, change = _figures(row)
        said = _printable(f"{row.verdict}: {before} -> {after} {change} {row.why}".strip())
        if row.regression:
            ElementTree.SubElement(case, "failure", message=said)
        elif row.verdict == UNKNOWN:
            ElementTree.SubElement(case, "skipped", message=said)
    written: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return written


def _printable(text: str) -> str:
    """Without the control characters that XML has no word for."""
    return "".join(c if c >= " " or c in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _markdown(found: Comparison) -> str:
    """Only what changed or can't be told; the rest is a number."""
    lines = [f"## {_cell(_title(found))}", "", found.sentence, ""]
    lines += [f"- the environments differ in {_cell(line)}" for line in differences(found.before, found.after)]
    shown = sorted((r for r in found.rows if r.verdict != NOTHING), key=lambda r: rank(r.verdict))
    if shown:
        lines += ["", "| what | against | before | now | change (95 %) | verdict |", "|---|---|---|---|---|---|"]
        for row in shown:
            verdict = f"**{row.verdict}**" if row.regression else row.verdict
            cells = [_name(row), row.reference, *_figures(row), verdict + (f" ({row.why})" if row.why else "")]
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join([*lines, "", ""])


def _cell(text: str) -> str:
    """Text that stays in its cell, and is no HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
