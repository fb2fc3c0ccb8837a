"""What a freshly built detector starts with, at the widths that its factory gives by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.checks.initialisation import STEPS, expect_spread, small_step
from harness.process.global_state import generators
from suites.detector.checks.bench import CLASSES, images, losses, target

LARGEST_LOSS = 10.0
"""Of any of the four. Scores near zero give log(2) and log(classes); a binary loss of 10 means scores of about 25."""
HEIGHT, WIDTH = 32, 64
"""An image with so few anchors that every one is sampled, those of P7 too."""


def _started(bench: Bench, seed: int) -> nn.Module:
    with generators(seed):
        return bench.build(CLASSES, seeding=False, min_size=HEIGHT, max_size=WIDTH).train()


def check_detector_start(bench: Bench) -> None:
    """Units of a layer start apart, at a customary width, and other under another seed; the first losses are moderate;
    within a few steps every weight gets a gradient."""
    model, other = (dict(_started(bench, bench.seed + n).named_parameters()) for n in range(2))
    for name, weight in model.items():
        if weight.ndim < 2 or not weight.requires_grad or not bool(weight.any()):
            continue
        expect_spread(bench.who, name, weight.detach())
        rows = _rows(weight.detach())
        assert len(rows.unique()) == len(rows), (
            f"{bench.who}: freshly built, of the {len(rows)} units of {name} only {len(rows.unique())} differ; units "
            "that start equal stay equal"
        )
        assert not torch.equal(weight, other[name]), (
            f"{bench.who}: freshly built, {name} starts with the same values under different seeds"
        )
    _check_learning(bench, _started(bench, bench.seed))


def _rows(weight: Tensor) -> Tensor:
    """A number for each unit that is not all zero; equal ones have the same."""
    rows = weight.double().flatten(1)
    generator = torch.Generator().manual_seed(0)
    return (rows @ torch.rand(rows.shape[1], dtype=torch.float64, generator=generator))[rows.any(dim=1)]


def _check_learning(bench: Bench, model: nn.Module) -> None:
    given = [image.float() for image in images(bench, (HEIGHT, WIDTH), (HEIGHT, WIDTH))]
    targets = [target([[2, 3, 40, 28], [30, 4, 62, 20]], [1, 3]), target([[5, 1, 60, 30]], [2])]
    waiting = {n for n, p in model.named_parameters() if p.ndim >= 2 and p.requires_grad}
    for step in range(1 + STEPS):
        found = losses(bench, model, given, [{**t, "boxes": t["boxes"].float()} for t in targets])
        high = {n: round(float(v.detach()), 1) for n, v in found.items() if not float(v.detach()) < LARGEST_LOSS}
        assert step or not high, (
            f"{bench.who}: freshly built, the first losses are {high}; expected about 0.7 for objectness, "
            f"{torch.tensor(CLASSES).log():.1f} for classes, and less than {LARGEST_LOSS:g} for any: the initial "
            "weights are far too large"
        )
        bench.backward(torch.stack(list(found.values())).sum())
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        wild = [n for n, g in gradients.items() if not bool(g.isfinite().all())]
        assert not wild, f"{bench.who}: freshly built, the gradient of {', '.join(wild[:5])} is not finite"
        waiting -= {n for n, g in gradients.items() if bool(g.any())}
        if not waiting:
            return
        small_step(model, gradients)
        model.zero_grad(set_to_none=True)
    raise AssertionError(
        f"{bench.who}: freshly built, {', '.join(sorted(waiting)[:5])} gets no gradient, nor does it after {STEPS} "
        "steps of the others"
    )
