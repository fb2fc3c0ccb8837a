"""Which variants this run tries: a third by default, under the nightly profile another third each day, or all."""

from __future__ import annotations

import pytest

from harness.mutants.catalogue import mutants, rewritings, select, turn_of_day


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    nightly = config.getoption("--hypothesis-profile", None) == "nightly"
    pattern, turn = config.getoption("--mutants"), turn_of_day() if nightly else 0
    for fixture, variants in (("faulty", mutants), ("correct", rewritings)):
        if fixture in metafunc.fixturenames:
            chosen = select(variants(), pattern, turn=turn)
            metafunc.parametrize(fixture, chosen, ids=[v.name for v in chosen])
