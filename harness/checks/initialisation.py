"""What a freshly built network starts with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.bench.bench import CLASSES, Bench, seeded
from harness.bench.weight_transplant import transplant
from harness.checks.side_effects import fresh
from harness.errors import some_of
from harness.process.global_state import generators

LARGEST_FIRST_LOSS = 30.0
"""Of a batch of four in ten classes. Of the customary initial heads the widest (uniform within 1/sqrt(classes), over
2,560 features) gives logits of deviation 5.5 at most, and with them a loss of 8.5, give or take 4.2."""

WIDEST = 5.0
"""Standard deviations of He et al. 2015 (arXiv:1502.01852) that an initial weight may have, from the smaller of its two
fans. Customary initialisations have at most one."""


NARROWEST = 1e-4
"""The same from the larger of its two fans, for weights that are not all zero. The narrowest customary ones are a
Transformer's classifier drawn with 0.02 and scaled by a thousandth, which has 4e-4."""

SCALES = (0.1, 10.0)
"""Mean size of a norm's scales, where they are not all zero. Ones are customary; torch once drew them from (0, 1)."""

STEPS = 3
"""After which no weight may still be without a gradient: a classifier, a residual branch's last norm and a layer's
scale that all start at zero hand it on one after the other."""


def check_initialisation(bench: Bench) -> None:
    """Freshly built weights are finite, differ between seeds, break symmetry, give finite loss and gradients, and
    within a few steps every weight matrix gets a gradient.
    """
    model, second = fresh(bench).models
    expect_broken_symmetry(bench, model, second)
    expect_seed_to_decide(bench, model)
    expect_statistics(bench, second)
    expect_weight_spread(bench, second)
    expect_norm_scales(bench, second)
    expect_learning(bench, model)


def expect_broken_symmetry(bench: Bench, model: nn.Module, second: nn.Module) -> None:
    """Raise AssertionError where weights are not finite, are constant, or are equal in both, built from two seeds."""
    bad = [n for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    assert not bad, f"{bench.who}: freshly built, {some_of(bad)} is not finite"
    # As the reference has them: what a subject stacks over its layers is no matrix for that.
    first, other = (_matrices(bench, {n: p.detach() for n, p in m.named_parameters()}) for m in (model, second))
    constant = [n for n, p in first.items() if bool((p == p.flatten()[0]).all())]
    nonzero = [n for n in constant if bool(first[n].any())]
    assert not nonzero, f"{bench.who}: freshly built, all values of {_named(bench, nonzero)} are equal"
    assert 2 * len(constant) <= len(first), (
        f"{bench.who}: freshly built, every value of {_named(bench, constant)} is zero, so the units "
        "can't learn different things"
    )
    same = [n for n, p in first.items() if n not in constant and n in other and torch.equal(p, other[n])]
    assert not same, f"{bench.who}: {_named(bench, same)} starts with the same values under different seeds"


def _matrices(bench: Bench, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``tensors`` that are weights of more than one dimension in the reference, by its names."""
    alignment = transplant(bench).grafted[0].alignment
    return {n: t for n, t in alignment.to_reference(tensors).items() if t.ndim >= 2 and t.numel() > 64}


def _named(bench: Bench, names: Sequence[str]) -> str:
    alignment = transplant(bench).grafted[0].alignment
    return ", ".join(", ".join(alignment.subject_names(name)) for name in names[:5])


def expect_seed_to_decide(bench: Bench, model: nn.Module) -> None:
    """Raise AssertionError where the same seeds give other values, or some value is never given.

    ``model`` was built from ``bench.seed + 1``. What is left uninitialised is NaN under torch's deterministic mode,
    which does not change what is drawn.
    """
    with generators(bench.seed + 1), filled_with_nan():
        again = bench.build(CLASSES, seeding=False, **bench.size)
    names = dict(again.named_parameters())
    left = [n for n, p in names.items() if not bool(torch.isfinite(p).all())]
    assert not left, (
        f"{bench.who}: freshly built, {some_of(left)} is never given a value: it holds what was in memory (which "
        "torch fills with NaN here)"
    )
    other = [n for n, p in model.named_parameters() if n in names and not torch.equal(p, names[n])]
    assert not other, (
        f"{bench.who}: built twice after the same seeds (torch's, Python's, NumPy's), {some_of(other)} starts "
        "with other values; expected the seeds to decide (it draws from a state that is kept)"
    )


@contextmanager
def filled_with_nan() -> Iterator[None]:
    """``torch.empty`` gives NaN within."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def expect_learning(bench: Bench, model: nn.Module) -> None:
    """Raise AssertionError where the first loss is far too large, or a weight matrix gets no gradient in `STEPS` steps.

    ``model`` takes these steps where they are needed.
    """
    model.train()
    images = bench.images(4, bench.small_side(), seed=47).float()
    losses, waiting = [], None
    for _ in range(1 + STEPS):
        with seeded(bench.seed + 48):
            logits = bench.logits(model, images)
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.arange(4))
        losses.append(loss.item())
        assert math.isfinite(losses[0]), f"{bench.who}: freshly built, the loss of a training batch is {losses[0]}"
        bench.backward(loss)
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        wild = [n for n, g in gradients.items() if not bool(torch.isfinite(g).all())]
        assert not wild, f"{bench.who}: freshly built, the gradient of {some_of(wild)} is not finite"
        matrices = _matrices(bench, gradients)
        without = {n for n, g in matrices.items() if not bool(g.any())}
        assert len(without) < len(matrices), (
            f"{bench.who}: freshly built, no weight matrix gets a gradient: the network is dead (norms or biases start "
            "at values that let nothing through)"
        )
        waiting = without if waiting is None else waiting & without
        if not waiting:
            break
        small_step(model, gradients)
    assert not waiting, (
        f"{bench.who}: freshly built, {_named(bench, sorted(waiting or ()))} gets no gradient, nor does it after "
        f"{STEPS} steps of the others: it starts between zeros that nothing can move"
    )
    assert losses[0] < LARGEST_FIRST_LOSS, (
        f"{bench.who}: freshly built, the loss of a training batch is {losses[0]:.1f}; expected near "
        "log(10) = 2.3: the initial weights are far too large"
    )


@torch.no_grad()
def small_step(model: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """A step of length 0.1 down the gradient."""
    length = math.hypot(*(g.norm().item() for g in gradients.values()))
    for name, parameter in model.named_parameters():
        if name in gradients and length:
            parameter.sub_(gradients[name], alpha=0.1 / length)


def expect_statistics(bench: Bench, model: nn.Module) -> None:
    """Raise AssertionError where running statistics don't start at mean 0 and variance 1, as eval mode needs them."""
    grafted = transplant(bench).grafted[0]
    fresh = {n: b.double() for n, b in model.named_buffers() if b.is_floating_point()}
    for name, buffer in grafted.alignment.to_reference(fresh).items():
        for kind, start in (("running_mean", 0.0), ("running_var", 1.0)):
            if name.endswith(kind):
                assert bool((buffer == start).all()), (
                    f"{bench.who}: freshly built, {', '.join(grafted.alignment.subject_names(name))} (there {name}) "
                    f"is not {start:g} everywhere"
                )


def expect_weight_spread(bench: Bench, model: nn.Module) -> None:
    """Raise AssertionError where a convolution or linear layer starts far too wide or too narrow."""
    grafted = transplant(bench).grafted[0]
    fresh = {n: p.detach() for n, p in model.named_parameters()}
    starts = grafted.alignment.to_reference(fresh)
    for name, module in grafted.model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and f"{name}.weight" in starts:
            weight = starts[f"{name}.weight"]
            groups = module.groups if isinstance(module, nn.Conv2d) else 1
            expect_spread(bench.who, ", ".join(grafted.alignment.subject_names(f"{name}.weight")), weight, groups)


def expect_norm_scales(bench: Bench, model: nn.Module) -> None:
    """Raise AssertionError where a norm's scales start neither near one nor, as at a branch's end, all at zero."""
    grafted = transplant(bench).grafted[0]
    starts = grafted.alignment.to_reference({n: p.detach() for n, p in model.named_parameters()})
    for name, module in grafted.model.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm) and f"{name}.weight" in starts:
            size = starts[f"{name}.weight"].double().abs().mean().item()
            assert size == 0 or SCALES[0] <= size <= SCALES[1], (
                f"{bench.who}: freshly built, the scales of the norm "
                f"{', '.join(grafted.alignment.subject_names(f'{name}.weight'))} have a mean size of {size:.2g}; "
                f"expected zero, or {SCALES[0]:g} to {SCALES[1]:g}: ones are customary"
            )


def expect_spread(who: str, name: str, weight: Tensor, groups: int = 1) -> None:
    """Raise AssertionError where the weight of a linear map or convolution starts far too wide or too narrow."""
    fan_in = weight[0].numel()
    fan_out = fan_in // weight.shape[1] * len(weight) // groups
    spread, widest = weight.double().std().item(), WIDEST * math.sqrt(2 / min(fan_in, fan_out))
    narrowest = NARROWEST * math.sqrt(2 / max(fan_in, fan_out))
    assert spread == 0 or spread >= narrowest, (
        f"{who}: freshly built, {name} has a standard deviation of {spread:.2g}; expected zero or at least "
        f"{narrowest:.2g}, {NARROWEST:g} times what He initialisation gives it"
    )
    assert spread <= widest, (
        f"{who}: freshly built, {name} has a standard deviation of {spread:.2g}; expected at most {widest:.2g}, "
        f"{WIDEST:g} times what He initialisation gives it"
    )
