"""Gradients reach every parameter: along skip connections, with parts frozen, at published sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.bench.bench import CLASSES, Bench, seeded
from harness.bench.passes import PassResult, cotangent, restored, run_pass, training_only
from harness.bench.tolerances import CEILING, gradient_errors, relative
from harness.bench.weight_transplant import transplant
from harness.errors import SubjectError, some_of
from harness.numerics.controlled_rng import ControlledRng
from harness.numerics.float64_mode import Float64Mode
from harness.numerics.residual_joins import ADDS, branch_gradients, joins, nodes
from harness.subjects.outputs import logits_of


def check_skip_gradient(bench: Bench) -> None:
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


def _by_shape(bench: Bench, shapes: list[tuple[int, ...]]) -> str:
    counted = ", ".join(f"{n} at {s}" for s, n in Counter(shapes).items())
    return f"; joins found: {counted or 'none'}"


def _gradients_agree(bench: Bench) -> bool:
    made = transplant(bench)
    images = bench.images(2, made.side, seed=9)
    try:
        got = run_pass(bench, made.subject, images, train=False)
    except SubjectError:
        return False
    expected = run_pass(bench, made.grafted[0].model, images, train=False)
    mapped = made.grafted[0].alignment.to_reference({n: g for n, g in got.gradients.items() if g is not None})
    return _close(got, expected) and all(
        g is None or (n in mapped and relative(mapped[n], g, max(g.norm().item(), 1e-6)) < 1e-6)
        for n, g in expected.gradients.items()
    )


def _close(got: PassResult, expected: PassResult) -> bool:
    if got.input_gradient is None or expected.input_gradient is None:
        return False
    return relative(got.input_gradient, expected.input_gradient) < 1e-6


BATCH = 65
"""More images than the checks with values put through a backward pass."""


@dataclass(frozen=True)
class Reach:
    """What the graph of one pass leads to: names of parameters, residual joins, and additions that are no joins."""

    logits: Tensor
    parameters: set[str]
    joins: int
    others: int


def expect_reach(bench: Bench) -> None:
    """Raise AssertionError where a large batch or size loses a parameter or residual join that a small one has.

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
        assert not missing, f"{where} no gradient reaches {some_of(missing)}; {small} it does"
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


def expect_the_rest_to_learn(bench: Bench) -> None:
    """Raise AssertionError where freezing a part changes the gradients of the rest.

    In train mode, on images that need no gradient, as in a training loop. Vectors alone (norms and biases), matrices
    alone, the later half, the classifier: each is a usual way to fine-tune. The operations are the same each time, so
    the bound is far above rounding. That reentrant checkpoints give what stands behind frozen layers no gradient is
    torch's own, documented limit (`torch.utils.checkpoint`), and no fault of the network.
    """
    made = transplant(bench)
    images = bench.images(2, made.side, seed=66)
    learning = {n: p for n, p in made.subject.named_parameters() if p.requires_grad}
    grafted = made.grafted[0]
    last = [n for n, _ in grafted.model.named_parameters()][-2:]
    parts: dict[str, Collection[str]] = {
        "norms and biases": [n for n, p in learning.items() if p.ndim <= 1],
        "weight matrices": [n for n, p in learning.items() if p.ndim > 1],
        "the later half of the parameters": list(learning)[len(learning) // 2 :],
        "the classifier": {s for n in last for s in grafted.alignment.subject_names(n) if s in learning},
    }
    together, reentrant = _gradients(bench, made.subject, images)
    for what, names in parts.items():
        if not names:
            continue
        with training_only(made.subject, names):
            alone, _ = _gradients(bench, made.subject, images)
        for name, error in gradient_errors(alone, together).items():
            if name not in names or (reentrant and name not in alone):
                continue
            assert error <= CEILING, (
                f"{bench.who}: in train mode, where {what} alone learn and the rest is frozen, the gradient of {name} "
                f"is {f'off by {error:.1e}' if name in alone else 'missing'}; expected what it is where everything "
                f"learns, to {CEILING:.0e} (relative, float64): a backward pass skips what it should compute"
            )
        del alone


def _gradients(bench: Bench, model: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], bool]:
    """Of one training step's loss by each parameter that learns; none where the logits have no graph. And whether
    parts are checkpointed in the reentrant way."""
    with restored(model), Float64Mode(), ControlledRng(batch=len(images)):
        logits = bench.logits(model.train(), images)
        model.zero_grad(set_to_none=True)
        graph = nodes(logits.grad_fn) if logits.grad_fn is not None else ()
        reentrant = any("CheckpointFunction" in node.name() for node in graph)
        if logits.requires_grad:
            bench.backward(logits, cotangent(bench, logits))
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, reentrant
