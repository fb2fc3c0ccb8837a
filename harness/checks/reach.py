"""Where gradients go at sizes and batches that cost too much with values: on the meta device, which has none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.joins import joins, nodes
from harness.outputs import logits_of
from harness.workbench import CLASSES, Workbench

BATCH = 65
"""More images than the checks with values put through a backward pass."""


def expect_reach(bench: Workbench) -> None:
    """The graph leads to every parameter, and no addition loses a branch, for large batches and sizes in either mode.

    It is compared with the graph of the smallest pass in eval mode, whose gradients the checks with values look at. A
    subject that does not run on the meta device is left to those checks.
    """
    side = bench.architecture.input_size
    least = side if bench.architecture.patch else bench.architecture.minimum_size
    try:
        model = bench.on_meta(CLASSES).requires_grad_(True)
        usual, dead = _reached(model, *_recorded(model, (2, least, least), train=False))
    except Exception as error:
        bench.notes["reach"] = f"forward does not run on the meta device ({type(error).__name__})"
        return
    large = side if bench.architecture.patch else 2 * side + 1
    for train in (False, True):
        # What is done differently at some batch or size is so from there on, mostly: both at once tell of both.
        for shape in ((BATCH, large, large), (2, side, side))[: 2 if train else 1]:
            try:
                logits, images = _recorded(model, shape, train=train)
                reached, cut = _reached(model, logits, images)
                missing = _without_gradient(model, logits) if usual - reached else []
            except Exception as error:  # control flow that depends on values
                bench.notes["reach"] = f"{shape} does not run on the meta device ({type(error).__name__})"
                continue
            mode, (batch, height, width) = "train" if train else "eval", shape
            where = f"{bench.who}: in {mode} mode, on images {(batch, 3, height, width)},"
            lost = [n for n in missing if n in usual]
            assert not lost, (
                f"{where} no gradient reaches {', '.join(lost[:5])}"
                + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
                + f"; in eval mode on {(2, 3, least, least)} it does"
            )
            assert cut <= dead, (
                f"{where} {cut} additions have a branch that carries no gradient (detached, or under no_grad); in "
                f"eval mode on {(2, 3, least, least)} there are {dead}"
            )


def _recorded(model: nn.Module, shape: tuple[int, int, int], *, train: bool) -> tuple[Tensor, Tensor]:
    """Logits and images of a pass on images (batch, height, width)."""
    batch, height, width = shape
    images = torch.empty(batch, 3, height, width, device="meta", requires_grad=True)
    return logits_of(model.train(train)(images), CLASSES), images


def _reached(model: nn.Module, logits: Tensor, images: Tensor) -> tuple[set[str], int]:
    """Names of the parameters that the graph leads to, and how many additions have a branch that carries none."""
    if logits.grad_fn is None:
        return set(), 0
    leaves = {
        id(variable) for node in nodes(logits.grad_fn) if (variable := getattr(node, "variable", None)) is not None
    }
    return {n for n, p in model.named_parameters() if id(p) in leaves}, len(joins(logits, images)[1])


def _without_gradient(model: nn.Module, logits: Tensor) -> list[str]:
    """Asked of the backward pass itself, since a checkpointed part hides its parameters from the graph."""
    if logits.grad_fn is None:
        return [n for n, _ in model.named_parameters()]
    logits.sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    model.zero_grad(set_to_none=True)
    return missing
