"""Where gradients go at sizes and batches that cost too much with values: on the meta device, which has none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.numerics.residual_joins import ADDS, joins, nodes
from harness.subjects.outputs import logits_of
from harness.workbench import CLASSES, Workbench, seeded

BATCH = 65
"""More images than the checks with values put through a backward pass."""


@dataclass(frozen=True)
class Reach:
    """What the graph of one pass leads to: names of parameters, residual joins, and additions that are no joins."""

    logits: Tensor
    parameters: set[str]
    joins: int
    others: int


def expect_reach(bench: Workbench) -> None:
    """Large batches and sizes lose no parameter and no residual join that a small batch of small images has.

    Each mode is compared with itself, since an implementation may compute the two differently; what the small pass has
    is held to the references by the checks with values. A subject that does not run on the meta device is left to them.
    """
    side = bench.architecture.input_size
    least, large = (side, side) if bench.architecture.patch else (bench.architecture.minimum_size, 2 * side + 1)
    # What is done differently from some batch or size on shows at the largest of both; one more for the size itself.
    shapes = [s for s in ((BATCH, large, large), (2, side, side)) if s != (2, least, least)]
    passes: list[tuple[bool, tuple[int, int, int], Reach, Reach, list[str]]] = []
    try:
        with seeded(bench.seed):
            model = bench.on_meta(CLASSES).requires_grad_(True)
            for train in (False, True):
                usual = _reach(model.train(train), (2, least, least))
                for shape in shapes:
                    there = _reach(model, shape)
                    lost = usual.parameters - there.parameters
                    passes.append(
                        (train, shape, usual, there, sorted(lost & _unreached(model, there.logits) if lost else lost))
                    )
    except Exception as error:  # control flow that depends on values, or an operator without a meta kernel
        bench.notes["reach"] = f"not followed: does not run on the meta device ({type(error).__name__})"
    small = f"on {(2, 3, least, least)}"
    for train, shape, usual, there, missing in passes:
        where = f"{bench.who}: in {'train' if train else 'eval'} mode, on images {(shape[0], 3, *shape[1:])},"
        assert not missing, (
            f"{where} no gradient reaches {', '.join(missing[:5])}"
            + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            + f"; {small} it does"
        )
        # Were it another way of writing the same, the additions would be gone as well, or the joins still there.
        assert there.joins >= usual.joins or there.others <= usual.others, (
            f"{where} {there.joins} residual joins carry a gradient on both branches; {small} {usual.joins} do: a "
            "branch is detached, or under no_grad"
        )


def _reach(model: nn.Module, shape: tuple[int, int, int]) -> Reach:
    """Of a pass on images (batch, height, width). Raises TypeError or ValueError where there are no logits."""
    batch, height, width = shape
    images = torch.empty(batch, 3, height, width, device="meta", requires_grad=True)
    logits = logits_of(model(images), CLASSES)
    if logits.grad_fn is None:
        return Reach(logits, set(), 0, 0)
    order = list(nodes(logits.grad_fn))
    leaves = {id(node.variable) for node in order if getattr(node, "variable", None) is not None}
    found = len(joins(logits, images)[0])
    return Reach(
        logits=logits,
        parameters={n for n, p in model.named_parameters() if id(p) in leaves},
        joins=found,
        others=sum(node.name() in ADDS for node in order) - found,
    )


def _unreached(model: nn.Module, logits: Tensor) -> set[str]:
    """Asked of the backward pass itself, since a checkpointed part hides its parameters from the graph."""
    if logits.grad_fn is not None:
        logits.sum().backward()
    missing = {n for n, p in model.named_parameters() if p.grad is None}
    model.zero_grad(set_to_none=True)
    return missing
