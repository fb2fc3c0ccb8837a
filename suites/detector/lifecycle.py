"""What a detector keeps from one call to the next."""

from __future__ import annotations

import gc
from itertools import pairwise

import torch
from torch import Tensor

from harness.checks.behaviour import PASSES
from harness.workbench import Workbench
from suites.detector.bench import detect, images, losses, ready, target

ANNOTATED = ([[4.0, 6.0, 40.0, 50.0]], [1])


def _alive() -> list[Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]


def check_kept_graph(bench: Workbench) -> None:
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
