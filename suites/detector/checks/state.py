"""What a detector keeps from one call to the next."""

from __future__ import annotations

import gc
from itertools import pairwise

import torch
from torch import Tensor

from harness.bench.bench import Bench
from harness.checks.independence import PASSES
from harness.checks.saving import expect_strict
from harness.checks.side_effects import expect_quiet_import, expect_seeds_to_hold, expect_settings
from harness.process.global_state import draw, generators, restore, settings
from suites.detector.checks.bench import detect, images, losses, ready, target

ANNOTATED = ([[4.0, 6.0, 40.0, 50.0]], [1])


def _alive() -> list[Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]


def check_kept_graph(bench: Bench) -> None:
    """After a training step no tensor of its graph is alive, and neither training nor use leaves more and more."""
    model = ready(bench)
    given = images(bench, (64, 96))
    before = {id(tensor) for tensor in _alive()}
    trained, used = [], []
    for _ in range(PASSES):
        bench.backward(torch.stack(list(losses(bench, model, given, [target(*ANNOTATED)]).values())).sum())
        alive = _alive()
        trained.append(len(alive))
        shapes = [tuple(t.shape) for t in alive if id(t) not in before and t.grad_fn is not None]
        del alive
        assert not shapes, (
            f"{bench.who}: after a training step {len(shapes)} tensors of its graph are alive, such as one of "
            f"{shapes[0]}; expected none: with them the whole step's memory stays, and copy.deepcopy raises"
        )
    for _ in range(PASSES):
        detect(bench, model, given)
        used.append(len(_alive()))
    for counts, mode in ((trained, "train"), (used, "eval")):
        growth = min(later - earlier for earlier, later in pairwise(counts))
        assert growth <= 0, f"{bench.who}: each pass in {mode} mode leaves {growth} tensors behind; expected none"


def check_detector_state(bench: Bench) -> None:
    """Building and calling it changes no setting of the process and seeds no generator.

    A training pass leaves gradients that are there, and only a state of the same network is loaded.
    """
    expect_quiet_import(bench.subject)
    before, drawn = settings(), []
    try:
        for start in (1, 2):
            with generators(bench.seed + start):
                model = ready(bench)
                drawn.append(draw())
            expect_settings(bench.who, before, "building it")
        given = images(bench, (64, 96))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        losses(bench, model, given, [target(*ANNOTATED)])
        expect_settings(bench.who, before, "a training pass")
        gone = [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad == 1).all())]
        detect(bench, model, given)
        expect_settings(bench.who, before, "detecting")
    finally:
        restore(before)
    expect_seeds_to_hold(bench.who, drawn, "building it")
    assert not gone, (
        f"{bench.who}: a training pass changes or clears the gradients of {', '.join(gone[:5])}; expected them to "
        "stay: micro-batches add up"
    )
    model.zero_grad(set_to_none=True)
    expect_strict(bench, model, {n: t.clone() for n, t in model.state_dict().items()})
