"""What a fine-tuning recipe promises, beside what its neighbours hold."""

from __future__ import annotations

import torch

from harness.bench.bench import Bench
from harness.checks.side_effects import expect_no_trace, expect_quiet_import
from suites.transfer.checks.applied_recipe import RAISED, Plan, some, uncounted
from suites.transfer.checks.backbones import PLAIN

UNKNOWN = "no_such_part"


def check_starts_from_given(bench: Bench) -> None:
    """Before the first step every weight, statistic and dtype is the given one, and there are no others.

    Nor does the recipe seed a generator or change a setting of the process.
    """
    expect_quiet_import(bench.subject)
    expect_no_trace(bench.who, lambda: Plan(bench, PLAIN[0]), "applying it")
    for backbone in PLAIN:
        expected = backbone.model().state_dict()
        plan = Plan(bench, backbone)
        for phase in plan.phases():
            got = plan.state()
            gone = [n for n in expected if n not in got and not uncounted(n)]
            assert not gone, f"{plan.who}: {some(gone)} is no longer part of the network; expected its parts to stay"
            added = [n for n in got if n not in expected and not uncounted(n)]
            assert not added, f"{plan.who}: {some(added)} is new in the network's state; expected none beside the given"
            kept = {n: t for n, t in expected.items() if n in got}
            changed = [n for n, t in kept.items() if got[n].dtype != t.dtype or not torch.equal(got[n], t)]
            assert not changed, (
                f"{plan.who}: in phase {phase}, before any step, {some(changed)} has another value than was given; "
                "expected fine-tuning to start from the given weights"
            )


def check_unknown_head(bench: Bench) -> None:
    """The name of a part that is not there is refused, and the error names it."""
    model = PLAIN[0].model()
    refusal: BaseException | None = None
    try:
        result = bench.subject.factory(model, UNKNOWN)
        if hasattr(result, "__next__"):
            next(result)
    except RAISED as error:
        refusal = error
    what = f"{bench.who}: a head called {UNKNOWN!r}, which the network does not have,"
    assert refusal is not None, f"{what} is accepted; expected an error"
    assert UNKNOWN in str(refusal), (
        f"{what} raises {type(refusal).__name__}: {refusal}; expected the message to name it"
    )
