"""What the catalogue promises about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.checks.registry import check_names
from harness.mutants.__main__ import main
from harness.mutants.catalogue import correct_variants, mutants, select
from harness.mutants.matrix import Matrix, Row, faults
from harness.mutants.trial import CheckResult, Outcome


def verdict(check: str, outcome: Outcome) -> CheckResult:
    return CheckResult(check=check, outcome=outcome, message="", seconds=0.5)


def test_enough_of_both() -> None:
    assert len(mutants()) >= 120
    assert len(correct_variants()) >= 15
    assert {m.family.name for m in mutants()} == {r.family.name for r in correct_variants()}


def test_expected_checks_exist() -> None:
    unknown = [m.name for m in mutants() if m.expected_check not in check_names(m.family, m.architecture)]
    assert not unknown


def test_every_check_has_a_mutant_of_its_own() -> None:
    expected = {m.expected_check for m in mutants()}
    idle = {c for m in mutants() for c in check_names(m.family, m.architecture)} - expected
    assert not idle


def test_a_bug_is_said_once() -> None:
    bugs = [(m.family.name, m.bug) for m in mutants()]
    assert len(set(bugs)) == len(bugs)


def test_thirds_are_disjoint_and_complete() -> None:
    thirds = [{m.name for m in select(mutants(), "third", turn=turn)} for turn in range(3)]
    assert set.union(*thirds) == {m.name for m in mutants()}
    assert sum(map(len, thirds)) == len(mutants())


def test_globs_and_families_select() -> None:
    assert [m.name for m in select(mutants(), "vit_tanh_gelu")] == ["vit_tanh_gelu"]
    assert {m.family.name for m in select(mutants(), "all", family="resnet")} == {"resnet"}
    assert not select(mutants(), "no_such_*")


@pytest.mark.parametrize(
    ("verdicts", "evidence", "complaint"),
    [
        ([("parity_eval", "failed")], 0.1, ""),
        ([("parity_eval", "passed")], 0.1, "survived"),
        ([("parity_eval", "passed"), ("shapes", "failed")], 0.1, "not rejected by parity_eval but by shapes"),
        ([("parity_eval", "failed")], 1e-15, "no evidence"),
        ([("parity_eval", "failed"), ("shapes", "error")], 0.1, "shapes broke"),
        ([("parity_eval", "skipped")], 0.1, "survived"),
    ],
)
def test_faults_of_an_outcome(verdicts: list[tuple[str, Outcome]], evidence: float, complaint: str) -> None:
    mutant = next(m for m in mutants() if m.expected_check == "parity_eval")
    row = Row(name=mutant.name, verdicts=tuple(verdict(*v) for v in verdicts), evidence=evidence)
    found = faults(mutant, row)
    assert bool(found) == bool(complaint)
    assert not complaint or complaint in found[0]


def test_false_alarm_is_a_complaint() -> None:
    correct = correct_variants()[0]
    matrix = Matrix(mutants=(), correct_variants=(correct,))
    matrix.rows[correct.name] = Row(name=correct.name, verdicts=(verdict("shapes", "failed"),), evidence=None)
    assert any("false alarm of shapes" in line for line in matrix.complaints())
    assert matrix.as_json()["correct"][0]["false_alarms"] == ["shapes"]


def test_command_records_the_matrix(tmp_path: Path) -> None:
    assert main(["--mutants", "vit_layers_share_weights", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/mutants.json")
    content = json.loads(path.read_text())
    (row,) = content["mutants"]
    assert row["name"] == "vit_layers_share_weights"
    assert "parameters" in row["killed_by"]
    assert row["expected_check"] in content["checks"]


def test_command_refuses_what_selects_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mutants", "no_such_mutant", "--results", str(tmp_path)]) == 4
    assert "selects none" in capsys.readouterr().out
