"""Train mode against the references: one step, and five."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from harness.bench.bench import Bench
from harness.bench.passes import PassResult, load, restored, run_pass, snapshot, state
from harness.bench.tolerances import CEILING, expect_same_logits, relative, rowwise
from harness.bench.weight_transplant import Transplant, transplant
from harness.checks.parity.compare import (
    compare,
    compare_buffers,
    compare_logits,
    eval_sensitivity,
    regularisation,
    sensitivity_of,
    with_rates,
)
from harness.numerics.controlled_rng import ControlledRng
from harness.numerics.float64_mode import Float64Mode
from harness.process.memory_reuse import trim_heap

LARGEST_BATCH = 130
"""Two more than 128, the last of the sizes at which statistics are split over parts of a batch; forward only."""
LARGE_BATCH = 66
"""Two more than the sizes (16, 32, 64) below it; with gradients, which cost more."""
LARGE_BATCH_OF_TOKENS = 17
"""The same for networks without statistics over a batch, whose passes cost more still."""
LATE = 10**6
"""Batches: more than most trainings have."""


def check_parity_train(bench: Bench) -> None:
    """In train mode, with every random draw controlled: logits, gradients and updated statistics equal."""
    made = transplant(bench)
    images = bench.images(4, made.side, seed=5)
    elements, rates = regularisation(bench)
    got = run_pass(bench, made.subject, images, train=True, elements=elements)
    sensitivity = None
    for grafted in made.grafted:
        reference = with_rates(bench, made, grafted, rates)
        expected = run_pass(bench, reference.model, images, train=True, elements=elements)
        if sensitivity is None and not expected.buffers and not got.draws:  # train mode computes what eval mode does
            sensitivity = eval_sensitivity(bench, made)
        sensitivity = sensitivity or sensitivity_of(
            bench, made, reference, images, expected, train=True, elements=elements
        )
        compare(bench, made, reference, images, got, expected, sensitivity, train=True)
        compare_buffers(bench, reference, got, expected, sensitivity)
        del expected  # its gradients take as much memory as the network
    got = replace(got, gradients={})
    reference = with_rates(bench, made, made.grafted[0], rates)
    for shape in _train_shapes(bench, made):
        others = bench.images(*shape, seed=63)
        got_there = run_pass(bench, made.subject, others, train=True, elements=elements)
        expected = run_pass(bench, reference.model, others, train=True, elements=elements)
        compare(bench, made, reference, others, got_there, expected, (CEILING, CEILING), train=True)
        del got_there, expected
    if bench.architecture.patch is None:
        many = bench.images(LARGEST_BATCH, bench.architecture.minimum_size, bench.architecture.minimum_size, seed=65)
        got_there, expected = (
            run_pass(bench, model, many, train=True, elements=elements, gradients=False)
            for model in (made.subject, reference.model)
        )
        compare_logits(bench, made, reference, many, got_there, expected, (CEILING, CEILING), train=True)
        compare_buffers(bench, reference, got_there, expected, (CEILING, CEILING))
    unrecorded = run_pass(bench, made.subject, images, train=True, elements=elements, gradients=False)
    expect_same_logits(
        bench, "in train mode, under no_grad after gradients were recorded,", unrecorded.logits, got.logits, CEILING
    )
    for name, buffer in unrecorded.buffers.items():
        assert relative(buffer, got.buffers[name]) <= CEILING, (
            f"{bench.who}: in train mode under no_grad {name} is updated differently than with gradients; expected the "
            "same (statistics are often recalibrated under no_grad)"
        )
    expect_same_step_late(bench, made.subject, images, elements, got)


def expect_same_step_late(
    bench: Bench, model: torch.nn.Module, images: Tensor, elements: str, early: PassResult
) -> None:
    """Raise AssertionError where a step differs after a million batches, by the model's own counters of them."""
    counters = {n: b for n, b in model.named_buffers() if n in early.counters}
    if not counters:
        return
    kept = {n: b.clone() for n, b in counters.items()}
    try:
        for counter in counters.values():
            counter.fill_(LATE)
        late = run_pass(bench, model, images, train=True, elements=elements, gradients=False)
    finally:
        for name, counter in counters.items():
            counter.copy_(kept[name])
    off = {"the logits": rowwise(late.logits, early.logits)}
    off |= {n: relative(b, early.buffers[n]) for n, b in late.buffers.items()}
    name, worst = max(off.items(), key=lambda item: item[1])
    assert worst <= CEILING, (
        f"{bench.who}: in train mode, with its counters of batches at {LATE:,} in place of where they start, {name} "
        f"changed by {worst:.1e}; expected at most {CEILING:.0e} (relative, float64): statistics are frozen, or "
        "averaged otherwise, after some number of batches"
    )


def _train_shapes(bench: Bench, made: Transplant) -> tuple[tuple[int, int, int], ...]:
    """Batches that a training loop meets besides the usual one: the last of an epoch with one image, a large one, and
    an odd size.

    The statistics of one image need many places (here sixteen in the last stage), or rounding is amplified a
    million-fold.
    """
    if bench.architecture.patch is not None:
        return (1, made.side, made.side), (LARGE_BATCH_OF_TOKENS, made.side, made.side)
    least = bench.architecture.minimum_size
    return (1, 4 * least, 4 * least), (LARGE_BATCH, least, least), (2, least + 43, least + 21)


def check_parity_trajectory(bench: Bench) -> None:
    """Parameters and statistics after five SGD steps (momentum 0.9, weight decay 1e-4) equal the reference's."""
    made = transplant(bench)
    grafted = made.grafted[0]
    side = made.side if bench.architecture.patch else max(48, bench.architecture.minimum_size)
    batch = 2 if bench.architecture.patch else 3  # statistics over a batch need more values than two
    images = [bench.images(batch, side, seed=10 + step) for step in range(5)]
    elements, rates = regularisation(bench)
    reference = with_rates(bench, made, grafted, rates)
    trim_heap()  # no other check needs as much at a time: weights before and after, gradients, momenta
    own = snapshot(state(made.subject))
    theirs = snapshot(state(reference.model), grafted.alignment.to_reference(own))
    with restored_to(reference.model, theirs), restored_to(made.subject, own):
        rate = _train(bench, reference.model, images, None, elements)
        _train(bench, made.subject, images, rate, elements)
        expected = state(reference.model)
        got = grafted.alignment.to_reference(state(made.subject))
        scales = _scales(expected)
        errors = {n: relative(got[n], expected[n], scales[n]) for n in expected if n in got}
    # A step moves the weights by a hundredth of their size, so five steps with momentum 0.9 carry at most a fifth of
    # what `check_parity_train` grants the gradients.
    bound = CEILING
    name, worst = max(errors.items(), key=lambda item: item[1])
    bench.notes.update(error=worst, bound=bound)
    subject_names = ", ".join(grafted.alignment.subject_names(name)) or name
    assert worst <= bound, (
        f"{bench.who} trains differently from {grafted.title}: after five SGD steps {subject_names} "
        f"(there {name}) is off by {worst:.1e}; expected at most {bound:.1e} (relative, float64)"
    )


@contextmanager
def restored_to(model: torch.nn.Module, kept: Mapping[str, Tensor]) -> Iterator[None]:
    """`restored`, and every parameter and floating-point buffer has its value in ``kept`` afterwards."""
    with restored(model):
        try:
            yield
        finally:
            load(model, kept)


def _scales(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Norms, but at least a millionth of the typical one."""
    norms = {n: t.norm().item() for n, t in tensors.items()}
    least = 1e-6 * sum(norms.values()) / len(norms)
    return {n: max(v, least) for n, v in norms.items()}


def _train(bench: Bench, model: torch.nn.Module, batches: list[Tensor], rate: float | None, elements: str) -> float:
    """Take one step per batch. Returns the learning rate: by default one at which the first step changes the weights
    by a hundredth of their norm."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate or 1.0, momentum=0.9, weight_decay=1e-4, fused=True)
    model.train()
    for images in batches:
        controlled = ControlledRng(batch=len(images), elements="identity" if elements == "identity" else "scaled")
        with Float64Mode(), controlled:
            logits = bench.logits(model, images)
            targets = torch.arange(len(images)) % logits.shape[1]
            bench.backward(torch.nn.functional.cross_entropy(logits, targets))
        if rate is None:
            length = _norm([p.grad for p in model.parameters() if p.grad is not None])
            rate = 0.01 * _norm([p.detach() for p in model.parameters()]) / length if length else 0.01
            optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert rate is not None
    return rate


def _norm(tensors: list[Tensor]) -> float:
    return float(sum(t.norm().item() ** 2 for t in tensors) ** 0.5)
