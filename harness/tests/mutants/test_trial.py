"""Every mutant is rejected by the check that must; every correct variant passes all of them.

A third of both by default (under the nightly profile another third each day), all with ``--mutants all``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import settings

from harness.checks.registry import check_names
from harness.mutants.catalogue import correct_variants, mutants, select, turn_of_day
from harness.mutants.probe import VISIBLE
from harness.mutants.trial import SLOW, load_profile, trial
from harness.mutants.variant import Correct, Mutant

COMPILED = ("resnet_raw_parameters", "efficientnet_linear_squeeze", "vit_einsum_attention", "vit_returns_a_tuple")
"""Correct variants that are exported and compiled too, which takes longer than all other checks together."""


@pytest.fixture(autouse=True)
def _few_examples() -> Iterator[None]:
    profile = settings.get_current_profile_name()
    load_profile()
    yield
    settings.load_profile(profile)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    pattern = metafunc.config.getoption("--mutants")
    nightly = metafunc.config.getoption("--hypothesis-profile", None) == "nightly"
    turn = turn_of_day() if nightly else 0
    given: dict[str, Sequence[Any]] = {"mutant": mutants(), "variant": correct_variants()}
    for name, variants in given.items():
        if name in metafunc.fixturenames:
            chosen = select(variants, pattern, turn=turn)
            metafunc.parametrize(name, chosen, ids=[v.name for v in chosen])


def test_mutant_is_rejected(mutant: Mutant) -> None:
    proof = mutant.proof()
    assert proof > VISIBLE, f"{mutant.name}: no evidence that it is faulty ({proof:.1e})"
    (verdict,) = trial(mutant, [mutant.expected_check])
    assert verdict.outcome == "failed", f"{mutant.bug}: {mutant.expected_check} {verdict.outcome}: {verdict.message}"
    assert mutant.name in verdict.message, "the message names the subject"


@pytest.mark.filterwarnings("default")  # a correct network may make torch warn, as one under vmap does
def test_correct_variant_passes(variant: Correct) -> None:
    names = check_names(variant.family, variant.architecture)
    checks = [c for c in names if c not in SLOW or variant.name in COMPILED]
    wrong = [v for v in trial(variant, checks) if v.outcome in ("failed", "error")]
    assert not wrong, f"{variant.writing}: " + "; ".join(f"{v.check}: {v.message}" for v in wrong)
