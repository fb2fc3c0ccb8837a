"""Gradient flow through skip connections."""

from __future__ import annotations

from collections import Counter

import torch

from harness.errors import SubjectError
from harness.numerics.float64_mode import Float64Mode
from harness.numerics.residual_joins import branch_gradients, joins
from harness.transplant import Outcome, relative, run, transplant
from harness.workbench import Workbench


def check_skip_gradient(bench: Workbench) -> None:
    """As many residual joins as published, and a gradient through each branch of each, shown by cutting the other.

    Joins are additions whose operands come from one activation. Where an implementation writes its joins in a form
    that the graph does not show as additions, the gradients themselves decide: they must equal the reference's.
    """
    made = transplant(bench)
    model = made.subject
    images = bench.images(2, made.side, seed=9).requires_grad_()
    with Float64Mode():
        logits = bench.logits(model, images)
        assert logits.grad_fn is not None, f"{bench.who}: the logits carry no gradient at all"
        found, cuts = joins(logits, images)
        expected = bench.architecture.residual_joins
        bench.notes.update(joins=len(found), published=expected)
        for number, join in enumerate(found):
            arriving, gradients = branch_gradients(join, bench.seed + number)
            where = f"{bench.who}: residual join {number + 1} of {len(found)}, of shape {join.shape}"
            for gradient in gradients:
                assert gradient is not None, f"{where}: a branch carries no gradient once the other is cut"
                assert bool(torch.isfinite(gradient).all()), f"{where}: a branch's gradient is not finite"
                assert bool(gradient.any()), f"{where}: a branch's gradient is zero once the other is cut"
            if join.identity:
                assert any(g is not None and torch.equal(g, arriving) for g in gradients), (
                    f"{where}: with the residual branch cut, the gradient does not arrive unchanged"
                )
    model.zero_grad(set_to_none=True)
    if len(found) == expected:
        return
    dead = Counter(c.shape for c in cuts)
    text = (
        f"{bench.who}: {len(found)} residual joins carry a gradient on both branches; expected {expected} "
        f"({bench.architecture.source})"
    )
    if dead:
        shapes = ", ".join(f"{n} of shape {s}" for s, n in dead.items())
        text += f"; additions with one branch that carries none (detached, or under no_grad): {shapes}"
    if not _gradients_agree(bench):
        raise AssertionError(text + _by_shape(bench, [j.shape for j in found]))
    bench.notes["form"] = "joins are not written as additions; the gradients equal the reference's"


def _by_shape(bench: Workbench, shapes: list[tuple[int, ...]]) -> str:
    counted = ", ".join(f"{n} at {s}" for s, n in Counter(shapes).items())
    return f"; joins found: {counted or 'none'}"


def _gradients_agree(bench: Workbench) -> bool:
    made = transplant(bench)
    images = bench.images(2, made.side, seed=9)
    try:
        got = run(bench, made.subject, images, train=False)
    except SubjectError:
        return False
    expected = run(bench, made.grafted[0].model, images, train=False)
    mapped = made.grafted[0].alignment.to_reference({n: g for n, g in got.gradients.items() if g is not None})
    return _close(got, expected) and all(
        g is None or (n in mapped and relative(mapped[n], g, max(g.norm().item(), 1e-6)) < 1e-6)
        for n, g in expected.gradients.items()
    )


def _close(got: Outcome, expected: Outcome) -> bool:
    if got.input_gradient is None or expected.input_gradient is None:
        return False
    return relative(got.input_gradient, expected.input_gradient) < 1e-6
