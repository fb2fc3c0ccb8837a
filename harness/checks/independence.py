"""Logits depend on the sample alone: not on the batch, earlier calls or the memory format."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench, seeded
from harness.bench.passes import float64_logits, load, run_pass, state
from harness.bench.tolerances import CEILING, beside_noise, expect_same_logits, gradient_errors, relative, rowwise
from harness.bench.weight_transplant import rounding_bound, transplant
from harness.errors import first_line
from harness.numerics.float64_mode import Float64Mode

PASSES = 4
"""Enough passes to tell a leak from a bounded cache, which the first ones may fill."""

LARGE_BATCH = 9
"""More than the eight that code written for one machine is most often limited to."""


def check_batch_independence(bench: Bench) -> None:
    """In eval mode a sample's logits don't depend on the rest of its batch, its place in it, or the batch's size."""
    made = transplant(bench)
    images = bench.images(5, made.side, seed=22)
    together = float64_logits(bench, made.subject, images)
    bound = rounding_bound(bench)
    reversed_ = float64_logits(bench, made.subject, images.flip(0)).flip(0)
    alone = torch.cat([float64_logits(bench, made.subject, images[i : i + 1]) for i in (0, 2, 4)])
    louder = images.clone()
    louder[1:] = 100 * louder[1:].flip(0)
    among_others = float64_logits(bench, made.subject, louder)[:1]
    least = made.side if bench.architecture.patch else bench.architecture.minimum_size
    few = bench.images(5, least, seed=31)
    many = float64_logits(bench, made.subject, torch.cat((few, few[: LARGE_BATCH - 5])))
    for what, got, expected in (
        (f"in a batch of {LARGE_BATCH}", many[5:], float64_logits(bench, made.subject, few)[: LARGE_BATCH - 5]),
        ("in reversed order", reversed_, together),
        ("alone in its batch", alone, together[[0, 2, 4]]),
        ("among other samples", among_others, together[:1]),
    ):
        error = rowwise(got, expected)
        assert error <= bound, (
            f"{bench.who}: in eval mode a sample's logits change by {error:.1e} when it is {what}; expected at most "
            f"{bound:.1e}: something is shared over the batch (batch statistics in eval mode, a cache, a reshape)"
        )


def check_determinism(bench: Bench) -> None:
    """In eval mode the same input gives the same logits, bit for bit, and takes no random numbers."""
    model = transplant(bench).subject
    images = bench.images(3, bench.small_side(), seed=23)
    before = torch.get_rng_state()
    first = float64_logits(bench, model, images)
    drew = not torch.equal(before, torch.get_rng_state())
    with seeded(bench.seed + 1):
        second = float64_logits(bench, model, images)
    assert torch.equal(first, second), (
        f"{bench.who}: in eval mode two calls on the same input differ by {rowwise(second, first):.1e}; "
        "expected equal logits (dropout or stochastic depth active in eval mode, or state kept between calls)"
    )
    assert not drew, f"{bench.who}: in eval mode the forward pass takes random numbers; expected none"


def check_no_cache(bench: Bench) -> None:
    """Nothing is remembered between calls: each input and each set of weights gives its own logits."""
    model = transplant(bench).subject
    bound = rounding_bound(bench)
    one, two = (bench.images(2, bench.small_side(), seed=s) for s in (24, 25))
    with torch.no_grad(), Float64Mode():
        given = bench.logits(model, one)
    first, second = given.clone(), float64_logits(bench, model, two)
    assert torch.equal(given, first), (
        f"{bench.who}: the next call overwrites the logits that an earlier one returned: they share memory that the "
        "model keeps"
    )
    assert relative(second, first) > 1e-6, (
        f"{bench.who}: two different inputs give the same logits: the output comes from a cache, or does not depend "
        "on the input"
    )
    rewritten = one.clone()
    kept = float64_logits(bench, model, rewritten)
    rewritten.copy_(two)  # the same tensor object and address, other values
    assert rowwise(float64_logits(bench, model, rewritten), second) <= bound, (
        f"{bench.who}: after the values of an input tensor were overwritten the logits are still "
        f"{'the old ones' if relative(float64_logits(bench, model, rewritten), kept) < 1e-6 else 'wrong'}: "
        "the output is cached by tensor identity or shape"
    )
    again = float64_logits(bench, model, one)
    assert rowwise(again, first) <= bound, (
        f"{bench.who}: after a call on another input the first input's logits changed by {rowwise(again, first):.1e}: "
        "state is kept between calls"
    )
    expect_passes_apart(bench, model, one, two)
    expect_nothing_kept(bench)
    expect_overwritten_weights_used(bench, model, one)


def expect_overwritten_weights_used(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """Raise AssertionError where logits don't follow weights and statistics that are overwritten in place."""
    saved = {n: t.clone() for n, t in state(model).items()}
    generator = torch.Generator().manual_seed(bench.seed + 26)
    for tensor in state(model).values():
        for part, drawn in beside_noise(tensor.data, generator):  # leaves no trace in torch's version count
            part.mul_(drawn.mul(0.02).exp_())
    changed = float64_logits(bench, model, images)
    fresh = bench.small_copy().double().eval()
    load(fresh, state(model))
    load(model, saved)
    off, wide = rowwise(changed, float64_logits(bench, fresh, images)), 100 * rounding_bound(bench)
    assert off <= wide, (
        f"{bench.who}: after its weights and statistics were overwritten in place, the logits differ "
        f"by {off:.1e} from those of a fresh instance that holds the same ones; expected at most {wide:.1e}: something "
        "that is derived from weights or inputs is cached"
    )


def expect_passes_apart(bench: Bench, model: nn.Module, one: Tensor, two: Tensor) -> None:
    """Raise AssertionError where a forward pass on ``two`` changes the backward pass that follows one on ``one``."""
    gradients = []
    for between in (False, True):
        images = one.clone().requires_grad_()
        with Float64Mode():
            logits = bench.logits(model, images)
            if between:
                bench.logits(model, two)
            try:
                (gradient,) = torch.autograd.grad(logits.sum(), images)
            except RuntimeError as refused:
                raise AssertionError(
                    f"{bench.who}: after a forward pass on another input, backward of the first one raised "
                    f"{type(refused).__name__}: {first_line(refused)}"
                ) from refused
        gradients.append(gradient)
    error = rowwise(gradients[1], gradients[0])
    assert error <= CEILING, (
        f"{bench.who}: a forward pass on another input changes the gradient of the first by {error:.1e}; expected at "
        f"most {CEILING:.0e}: what the backward pass needs is kept on the module, not with the graph"
    )


def expect_nothing_kept(bench: Bench) -> None:
    """Raise AssertionError where each pass in train and eval mode leaves more tensors alive, or more hooks."""
    model = bench.small_copy().train()
    images = bench.images(4, bench.small_side(), seed=32).float()
    alive, hooks = [], []
    for _ in range(PASSES):
        bench.logits(model.train(), images)
        with torch.no_grad():
            bench.logits(model.eval(), images)
        gc.collect()
        alive.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))
        hooks.append(sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()))
    more = min(later - earlier for earlier, later in pairwise(hooks))
    assert more <= 0, (
        f"{bench.who}: each forward pass registers {more} hooks that nothing removes; expected none (each is called in "
        "every later pass)"
    )
    growth = [later - earlier for earlier, later in pairwise(alive)]
    assert min(growth) <= 0, (
        f"{bench.who}: each forward pass leaves {min(growth)} tensors behind that nothing frees; expected none "
        "(outputs or features gathered in a list keep every graph alive)"
    )


def check_memory_format(bench: Bench) -> None:
    """channels_last, transposed, sliced and expanded inputs, and channels_last weights, give the same logits."""
    model = transplant(bench).subject
    side = bench.small_side()
    images = bench.images(4, side, seed=27)
    expected, bound = float64_logits(bench, model, images), rounding_bound(bench)
    padded = torch.zeros(4, 5, side + 3, side + 3, dtype=images.dtype)
    padded[:, 1:4, 2 : side + 2, 1 : side + 1] = images
    every_other = torch.zeros(8, 3, side, side, dtype=images.dtype)
    every_other[::2] = images
    layouts: dict[str, Tensor] = {
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "transposed in memory": images.transpose(2, 3).contiguous().transpose(2, 3),
        "a slice of a larger tensor": padded[:, 1:4, 2 : side + 2, 1 : side + 1],
        "every other sample of a batch": every_other[::2],
    }
    for what, laid_out in layouts.items():
        expect_same_logits(
            bench, f"with an input that is {what}", float64_logits(bench, model, laid_out), expected, bound
        )
    one = images[:1].expand(4, -1, -1, -1)
    expect_same_logits(
        bench, "with an expanded input", float64_logits(bench, model, one), expected[:1].expand(4, -1), bound
    )
    with _channels_last(model):
        got = float64_logits(bench, model, layouts["channels_last"])
    expect_same_logits(bench, "with weights and input in channels_last", got, expected, bound)
    expect_same_training_step(bench, model, images, layouts["channels_last"])


@contextmanager
def _channels_last(model: nn.Module) -> Iterator[None]:
    """Its weights are in channels_last, except where torch refuses that: beside tensors of five dimensions."""
    if any(t.ndim == 5 for t in (*model.parameters(), *model.buffers())):
        yield
        return
    try:
        model.to(memory_format=torch.channels_last)
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)


def expect_same_training_step(bench: Bench, model: nn.Module, images: Tensor, laid_out: Tensor) -> None:
    """Raise AssertionError where channels_last changes the logits or gradients of a training step."""
    plain = run_pass(bench, model, images, train=True)
    with _channels_last(model):
        other = run_pass(bench, model, laid_out, train=True)
    expect_same_logits(
        bench, "in train mode with weights and input in channels_last", other.logits, plain.logits, CEILING
    )
    for name, error in gradient_errors(other.gradients, plain.gradients).items():
        assert error <= CEILING, (
            f"{bench.who}: in train mode weights and an input in channels_last give {name} another gradient, off "
            f"by {error:.1e}; expected at most {CEILING:.0e} (relative, float64)"
        )
