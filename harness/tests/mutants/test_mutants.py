"""Faulty variants are rejected by the check that names their fault, correct ones by none."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from harness.checks import check_names
from harness.mutants.catalogue import mutants, rewritings, select
from harness.mutants.evidence import VISIBLE
from harness.mutants.mutant import Mutant, Rewriting
from harness.mutants.trial import SLOW, load_profile, trial
from harness.strategies import PROFILE

pytestmark = pytest.mark.filterwarnings("ignore")  # what a faulty model makes torch say is not the point


@pytest.fixture(autouse=True, scope="module")
def few_examples() -> Iterator[None]:
    """As ``python -m harness.mutants`` does it."""
    level = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.ERROR)
    load_profile()
    yield
    settings.load_profile(PROFILE)
    logging.getLogger("torch").setLevel(level)


def test_faulty(faulty: Mutant) -> None:
    """The whole kill matrix is ``python -m harness.mutants``; here the check that must reject it has to."""
    assert faulty.proof() > VISIBLE, f"{faulty.name}: nothing shows that it is faulty at all"
    (verdict,) = trial(faulty, [faulty.expected_check])
    assert verdict.outcome == "failed", f"{faulty.name} ({faulty.bug}): {verdict.check} {verdict.outcome}"
    assert verdict.message


def test_correct(correct: Rewriting) -> None:
    checks = [c for c in check_names(correct.family) if c not in SLOW]
    rejected = [
        f"{v.check} {v.outcome}: {v.message}" for v in trial(correct, checks) if v.outcome in ("failed", "error")
    ]
    assert not rejected, f"{correct.name} is correct ({correct.writing}), yet:\n" + "\n".join(rejected)


def test_there_are_enough_of_them() -> None:
    assert len(mutants()) >= 120
    assert len(rewritings()) >= 15
    thirds = [m.name for turn in range(3) for m in select(mutants(), "third", turn=turn)]
    assert sorted(thirds) == sorted(m.name for m in mutants())
    assert torch.get_default_dtype() is torch.float32
