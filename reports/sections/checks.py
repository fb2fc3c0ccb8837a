"""The checks: their matrix, failures in sentences with layers side by side, skips, the verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.records.verdicts import BAD, judges
from reports.drawing.tables import csv_address
from reports.drawing.units import count, ratio
from reports.frames.ratios import NOT_RANKED
from reports.frames.run import worst
from reports.sections.section import Block, Section, Source

if TYPE_CHECKING:
    from reports.frames.run import Run


SYMBOLS: Mapping[str, str] = {"error": "!", "failed": "✕", "xfailed": "x", "passed": "✓", "skipped": "·", "": ""}
MEANING: Mapping[str, str] = {
    "error": "could not be judged: an error outside the check",
    "failed": "failed",
    "xfailed": "fails as expected, with a written reason",
    "passed": "passed",
    "skipped": "skipped, with a reason",
}
LEGEND = ("passed", "failed", "error", "xfailed", "skipped")
ZOO = "zoo"
"""The suite of any model that a library lists."""
LONGEST_MESSAGE = 20_000
"""Characters of a message that the page shows; ``records.jsonl`` has all of it."""
LONGEST_NAME = 80
"""Characters of a name in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One cell of the matrix; ``anchor`` is the id of what explains it, further down."""

    outcome: str
    says: str
    anchor: str = ""

    @property
    def symbol(self) -> str:
        """One character."""
        return SYMBOLS[self.outcome]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Checks (rows) by implementation and architecture (columns) of one suite."""

    suite: str
    groups: tuple[tuple[str, int], ...]
    """(implementation, number of its architectures)."""
    architectures: tuple[str, ...]
    counts: tuple[str, ...]
    """Per column, "23 / 25": passed of those that ran."""
    rows: tuple[tuple[str, tuple[Mark, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check that failed, erred or fails as expected, with everything that explains it."""

    anchor: str
    outcome: str
    sentence: str
    message: str
    reproduce: str
    facts: tuple[tuple[str, str], ...]
    layers: LayerTable | None


def findings(checks: pd.DataFrame) -> list[Finding]:
    """Failures and errors first, then expected failures, in the order they were recorded."""
    rank = {"failed": 0, "error": 0, "xfailed": 1}
    told = checks[checks["outcome"].isin(list(rank))]
    rows = sorted(told.to_dict("index").items(), key=lambda item: rank[item[1]["outcome"]])
    return [_finding(index, row) for index, row in rows]


def matrices(checks: pd.DataFrame) -> list[Matrix]:
    """One matrix per suite; columns in the order of the records."""
    return [_matrix(str(suite), group) for suite, group in worst(checks).groupby("suite", sort=False)]


def skips(checks: pd.DataFrame) -> pd.DataFrame:
    """Reasons for skipping, how often, and where: ``reason``, ``times`` (int64), ``where`` (str)."""
    skipped = checks[checks["outcome"] == "skipped"]
    where = skipped["subject"] + " " + skipped["architecture"] + ": " + skipped["check"]
    reason = skipped["message"].where(skipped["message"] != "", "no reason was given")
    grouped = pd.DataFrame({"reason": reason, "where": where}).groupby("reason", sort=False)["where"]
    return pd.DataFrame(
        [{"reason": why, "times": len(g), "where": _some(list(dict.fromkeys(g)))} for why, g in grouped],
        columns=["reason", "times", "where"],
    )


def verdict(run: Run, ratios: pd.DataFrame) -> tuple[str, str]:
    """(held, failed or unknown; the verdict in one sentence)."""
    judging = run.checks["check"].map(judges).astype(bool)
    outcomes = worst(run.checks[judging])
    tally = outcomes["outcome"].value_counts()
    wrong = outcomes[outcomes["outcome"].isin(BAD)]
    unmeasured = int(run.checks[~judging]["outcome"].isin(BAD).sum())
    ran = len(outcomes) - int(tally.get("skipped", 0))
    expected = int(tally.get("xfailed", 0))
    clauses = []
    if len(wrong):
        who = list(dict.fromkeys(f"{s} {a}" for s, a in zip(wrong["subject"], wrong["architecture"], strict=True)))
        failed, erred = int(tally.get("failed", 0)), int(tally.get("error", 0))
        of = f" of {count(ran - expected, 'check')}"
        said = f"{failed:,}{of} failed" + (f" and {erred:,} could not be judged" if erred else "")
        clauses.append((said if failed else f"{erred:,}{of} could not be judged") + f", on {_some(who, 4)}")
    elif ran > expected:
        subjects = outcomes[["subject", "architecture"]].drop_duplicates()
        clauses.append(f"all {count(ran - expected, 'check')} held, on {count(len(subjects), 'subject')}")
    elif len(outcomes) and not expected:
        clauses.append(f"nothing was judged: all {count(len(outcomes), 'check')} were skipped")
    if expected:
        clauses.append(f"{count(expected, 'known deviation')} failed as expected")
    if unmeasured:
        clauses.append(f"{count(unmeasured, 'benchmark')} could not be measured")
    speed = _speed_clause(ratios)
    if speed:
        clauses.append(speed)
    words = {verdict.word for verdict in run.verdicts.all()}
    state = "failed" if "WRONG" in words else "held" if "right" in words else "unknown"
    sentence = "; ".join(clauses) if clauses else "there is nothing to judge: no check and no speed was recorded"
    return state, sentence[0].upper() + sentence[1:] + "."


def _speed_clause(ratios: pd.DataFrame) -> str:
    ranked = ratios[(ratios["verdict"] != NOT_RANKED) & ratios["ratio"].notna()]
    if not len(ranked):
        return "no speed is ranked" if len(ratios) else ""
    tally = ranked["verdict"].value_counts()
    order = ("faster", "slower", "no difference seen", "cannot tell")
    named = {"no difference seen": "without a difference seen", "cannot tell": "undecided"}
    said = ", ".join(f"{tally[v]} {named.get(v, v)}" for v in order if v in tally)
    span = f"{ratio(ranked['ratio'].min())} to {ratio(ranked['ratio'].max())}"
    return f"throughput is {span} of the references' ({count(len(ranked), 'comparison')}: {said})"


def _matrix(suite: str, group: pd.DataFrame) -> Matrix:
    columns = list(
        group[["subject", "architecture"]].drop_duplicates().itertuples(index=False, name=None),
    )
    order = {subject: i for i, (subject, _) in reversed(list(enumerate(columns)))}
    columns.sort(key=lambda column: order[column[0]])
    marks: dict[tuple[str, str, str], Mark] = {}
    for index, row in group.to_dict("index").items():
        said = f"{row['subject']} {row['architecture']}, {row['check']}: {MEANING[row['outcome']]}"
        if row["outcome"] == "skipped" and row["message"]:
            said += f" ({row['message'][:300]})"
        told = row["outcome"] in ("failed", "error", "xfailed")
        marks[row["check"], row["subject"], row["architecture"]] = Mark(
            outcome=row["outcome"], says=said, anchor=f"finding-{index}" if told else ""
        )
    nothing = Mark(outcome="", says="not run")
    names = list(dict.fromkeys(group["check"]))
    counts = []
    for subject, architecture in columns:
        own = [m.outcome for (_, s, a), m in marks.items() if (s, a) == (subject, architecture)]
        counts.append(f"{own.count('passed')}/{len(own) - own.count('skipped')}")
    subjects = [subject for subject, _ in columns]
    return Matrix(
        suite=suite,
        groups=tuple((subject, subjects.count(subject)) for subject in dict.fromkeys(subjects)),
        architectures=tuple(architecture for _, architecture in columns),
        counts=tuple(counts),
        rows=tuple((name, tuple(marks.get((name, s, a), nothing) for s, a in columns)) for name in names),
    )


def _finding(index: Any, row: Mapping[Any, Any]) -> Finding:
    verb = {"failed": "fails", "error": "could not be judged by", "xfailed": "fails, as expected,"}[row["outcome"]]
    details = dict(row["details"])
    layers = layer_table(details.pop("layers", None), details.get("deviation"))
    return Finding(
        anchor=f"finding-{index}",
        outcome=row["outcome"],
        sentence=f"{row['architecture']} of {row['subject']} {verb} the check {row['check']}.",
        message=_shortened(row["message"]) or "No message was recorded.",
        reproduce=row["reproduce"],
        facts=tuple((str(key), _shortened(_text(value))) for key, value in details.items()),
        layers=layers,
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(held)}" for name, held in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_MESSAGE:
        return text
    return f"{text[:LONGEST_MESSAGE]}\n… {len(text) - LONGEST_MESSAGE:,} more characters in records.jsonl"


def _some(names: list[str], most: int = 12) -> str:
    short = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…" for name in names[:most]]
    return ", ".join(short) + (f" and {len(names) - most} more" if len(names) > most else "")


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
        cells = (*(_value_text(row.get(name)) for name in ("kind", "subject", "reference")), shape, settings)
        made.append(
            Layer(
                cells=cells + ((_value_text(row.get("error")),) if with_error else ()),
                look=look or ("apart" if shapes_apart or settings_apart else ""),
            )
        )
    return LayerTable(columns=columns, rows=tuple(made), apart=sum(bool(layer.look) for layer in made))


def _settings(subject: Any, reference: Any) -> tuple[str, bool]:
    """Settings that both share in words; those that differ as "stride 2×2 (reference: 1×1)", in front."""
    if not isinstance(subject, Mapping) or not isinstance(reference, Mapping):
        return _pair(subject, reference, _value_text)
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
        return "×".join(_value_text(part) for part in value)
    return _value_text(value)


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def matrix_section(source: Source) -> Section:
    """Every check on every subject, but for models of a library's list, which have a section of their own."""
    checks = source.run.checks
    content = {
        "matrices": matrices(checks[checks["suite"] != ZOO]),
        "legend": [(outcome, SYMBOLS[outcome], MEANING[outcome]) for outcome in LEGEND],
        "csv": csv_address(checks.drop(columns="details")),
    }
    blocks = [Block(kind="matrices", content=content)] if content["matrices"] else []
    return Section(id="checks", title="Checks", link="Checks", blocks=blocks)


def failures_section(source: Source) -> Section:
    """What failed, erred or failed as expected."""
    found = findings(source.run.checks)
    blocks = [Block(kind="findings", content=found)] if found else []
    return Section(id="failures", title="Failures", link="Failures", blocks=blocks)
