"""Dropout and stochastic depth in train mode, with every random draw answered: no statistics, no luck."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench, seeded
from harness.bench.passes import cotangent, restored, run_pass
from harness.bench.tolerances import CEILING, bounded, gradient_errors, rowwise
from harness.bench.weight_transplant import transplant
from harness.checks.parity.compare import compare, regularisation, with_rates
from harness.numerics.controlled_rng import Draw, Recorded, Scope, gathered
from harness.numerics.float64_mode import Float64Mode

LEVELS = (0.5, 0.99937, 0.98537, 0.96037, 0.93037, 0.90037, 0.87037, 0.84037)
"""One per sample: the first keeps every branch, the second drops every branch, the others tell neighbouring rates
apart, since a branch kept with probability p is kept at exactly the levels below p. None is a probability that anybody
chooses: at p itself ``rand < p`` and ``rand <= p`` would differ."""


def check_stochastic(bench: Bench) -> None:
    """Random parts act per sample, with the published probabilities, on residual branches only, and are rescaled.

    Nothing is sampled: each uniform number is set, so the check can't fail by chance. A subject without any random
    part passes (its rates are zero).
    """
    made = transplant(bench)
    images = bench.images(len(LEVELS), made.side, seed=50)
    probe = run_pass(bench, made.subject, images, train=True, gradients=False)
    again = run_pass(bench, made.subject, images, train=True, gradients=False)
    assert torch.equal(probe.logits, again.logits), (
        f"{bench.who}: with torch's draws fixed, train mode still gives different logits: it draws from another "
        "generator (Python's random, NumPy), or keeps state between calls; expected torch.manual_seed to decide"
    )
    drawn = [d for d in probe.draws if not d.trivial]
    if any(d.scope(len(images)) == "batch" or d.shape[0] == 1 or len(d.shape) == 1 for d in drawn):
        fewer = run_pass(bench, made.subject, images[1:], train=True, gradients=False)
        drawn = gathered(drawn, len(images), [d for d in fewer.draws if not d.trivial], len(images) - 1)
    bench.notes["draws"] = len(drawn)
    whole = [d for d in drawn if d.scope(len(images)) == "batch"]
    assert not whole, (
        f"{bench.who}: in train mode a random number decides for the whole batch ({len(whole)} of them); expected one "
        "per sample (stochastic depth that drops whole batches)"
    )
    noise = [d for d in drawn if d.kind == "normal"]
    assert not noise, f"{bench.who}: in train mode the forward pass adds Gaussian noise ({len(noise)} draws)"
    facts = bench.architecture.facts
    assert not drawn or "dropout" in facts or "drop_path" in facts, (
        f"{bench.who}: in train mode it draws random numbers ({drawn[0].kind} of shape {drawn[0].shape}); the "
        "published network has neither dropout nor stochastic depth"
    )
    elementwise = [d for d in drawn if d.scope(len(images)) == "element"]
    shared = [d for d in elementwise if d.shape[0] == 1 or len(d.shape) == 1]
    assert not shared, (
        f"{bench.who}: in train mode one mask of shape {shared[0].shape} serves the whole batch; expected each sample "
        "to draw its own"
    )
    for where, shape in (("logits", probe.logits.shape), ("images", images.shape)):
        assert all(d.shape != tuple(shape) for d in elementwise), (
            f"{bench.who}: in train mode it draws a random number for each of the {where}, {tuple(shape)}: dropout "
            f"acts on the {where}; expected it before the classifier or inside the network"
        )
    if drawn:
        expect_seed_to_decide(bench, made.subject, images)
        expect_gradients_of_what_was_drawn(bench, made.subject, images)
        expect_published_default_rate(bench, elementwise)
    per_sample = [d for d in drawn if d.scope(len(images)) == "sample"]
    if per_sample:
        expect_stochastic_depth(bench, images, per_sample)
    expect_dropout(bench, images)


def expect_stochastic_depth(bench: Bench, images: Tensor, per_sample: list[Draw]) -> None:
    """Raise AssertionError where branches aren't kept with the published probabilities, and rescaled.

    Dropout is taken out on both sides.
    """
    made = transplant(bench)
    _, rates = regularisation(bench)
    mirrored = tuple(1 - level for level in LEVELS)  # floor(keep + u) keeps at high levels

    @cache
    def ours(levels: tuple[float, ...]) -> Tensor:
        return run_pass(
            bench, made.subject, images, train=True, level=levels, elements="identity", gradients=False
        ).logits

    for grafted in made.grafted:
        reference = with_rates(bench, made, grafted, rates)
        expected = run_pass(
            bench, reference.model, images, train=True, level=LEVELS, elements="identity", gradients=False
        )
        expect_same_probabilities(bench, per_sample, [d for d in expected.draws if d.scope(len(images)) == "sample"])
        bound = bounded(1e-8)
        error = rowwise(ours(LEVELS), expected.logits)
        if error > bound:
            error = min(error, rowwise(ours(mirrored), expected.logits))
        bench.notes.update(error=error, bound=bound)
        assert error <= bound, (
            f"{bench.who}: with branches dropped for some samples the logits differ from {grafted.title} by "
            f"{error:.1e}, expected at most {bound:.1e} (relative, float64): stochastic depth has other rates, drops "
            "the sum instead of the residual branch, or does not divide what it keeps by the probability of keeping it"
        )
    levels = LEVELS if rowwise(ours(LEVELS), expected.logits) <= bound else mirrored
    got, expected = (
        run_pass(bench, model, images, train=True, level=turned, elements="identity")
        for model, turned in ((made.subject, levels), (reference.model, LEVELS))
    )
    compare(bench, made, reference, images, got, expected, (CEILING, CEILING), train=True)


@torch.no_grad()
def expect_seed_to_decide(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """Raise AssertionError where torch's own draws differ after equal seeds, or agree after different ones.

    The likeliest outcome of stochastic depth alone (nothing is dropped from any of eight samples by EfficientNet-B0)
    has a probability below 1e-3, so that four seeds agree by chance once in 10^9 times.
    """

    def drawn(seed: int) -> tuple[Tensor, Recorded]:
        with seeded(1000 * bench.seed + seed), Float64Mode(), Recorded(len(images)) as recorded:
            return bench.logits(model.train(), images).clone(), recorded

    with restored(model):
        first, recorded = drawn(51)
        assert torch.equal(drawn(51)[0], first), (
            f"{bench.who}: in train mode two passes after the same torch.manual_seed give different logits: it draws "
            "from a generator of its own; expected torch.manual_seed to decide"
        )
        others = [drawn(seed)[1] for seed in (52, 53, 54)]
        scopes: tuple[tuple[Scope, str], ...]
        scopes = (
            ("sample", "drops the same samples"),
            ("batch", "drops the same samples"),
            ("element", "drops the same elements"),
        )
        for scope, what in scopes:
            there = recorded.of(scope)
            assert not there.numel() or any(not torch.equal(o.of(scope), there) for o in others), (
                f"{bench.who}: in train mode it {what} after every torch.manual_seed: it draws from a generator that "
                "it starts anew in each step"
            )


def expect_gradients_of_what_was_drawn(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """Raise AssertionError where gradients depend on the generator's state when the backward pass begins.

    Activations that are computed anew in the backward pass (checkpointing) have to meet the draws of the forward pass.
    """
    seen = []
    for later in (56, 57):
        with restored(model), Float64Mode():
            model.train().zero_grad(set_to_none=True)
            with seeded(1000 * bench.seed + 55):
                logits = bench.logits(model, images)
            with seeded(1000 * bench.seed + later):
                bench.backward(logits, cotangent(bench, logits))
            seen.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    one, other = seen
    for name, error in gradient_errors(other, one).items():
        assert error <= CEILING, (
            f"{bench.who}: in train mode the gradient of {name} changes by {error:.1e} where only the generator's "
            f"state between the forward and the backward pass differs; expected at most {CEILING:.0e}: the backward "
            "pass draws other numbers than the forward pass did (checkpointing with preserve_rng_state=False)"
        )


def expect_published_default_rate(bench: Bench, elementwise: list[Draw]) -> None:
    """Raise AssertionError where the default dropout rate exceeds that of the published training.

    Applies where the published network is built without dropout.
    """
    facts = bench.architecture.facts
    if facts.get("dropout") != 0.0 or "trained_dropout" not in facts:
        return
    for draw in elementwise:
        if draw.probability is not None:
            rate = 1.0 - draw.probability
            assert rate <= facts["trained_dropout"] + 1e-9, (
                f"{bench.who}: as built by default it drops elements with probability {rate:.4g} in train mode; "
                f"expected 0, or {facts['trained_dropout']:.4g} as in its published training"
            )


def expect_dropout(bench: Bench, images: Tensor) -> None:
    """Raise AssertionError where elements aren't kept with the published probability and dropped otherwise.

    Draws just below and just above the probability show it.
    """
    made = transplant(bench)
    _, rates = regularisation(bench)
    dropout = rates.get("dropout", 0.0)
    if not dropout:
        return
    reference = with_rates(bench, made, made.grafted[0], rates)
    kept = 1 - dropout
    levels = (kept - 0.01, kept + 0.01)
    theirs = [
        run_pass(bench, reference.model, images, train=True, element_level=x, gradients=False).logits for x in levels
    ]

    def turned(level: float, mirrored: bool) -> float:
        return 1 - level if mirrored else level  # rand > dropout, or rand < keep

    def off(mirrored: bool) -> float:
        ours = (
            run_pass(bench, made.subject, images, train=True, element_level=turned(x, mirrored), gradients=False).logits
            for x in levels
        )
        return max(rowwise(own, there) for own, there in zip(ours, theirs, strict=True))

    error, mirrored = off(mirrored=False), False
    if error > CEILING:
        error, mirrored = min((error, False), (off(mirrored=True), True))
    assert error <= CEILING, (
        f"{bench.who}: dropout does not keep an element with probability {kept:.4g} and set it to zero otherwise: the "
        f"logits differ from {reference.title} by {error:.1e}, expected at most {CEILING:.0e} (relative, float64)"
    )
    dropped = [  # every element: what feeds dropout alone gets no gradient
        run_pass(bench, model, images[:2], train=True, element_level=level)
        for model, level in ((made.subject, turned(levels[1], mirrored)), (reference.model, levels[1]))
    ]
    reached = reference.alignment.to_reference({n: g for n, g in dropped[0].gradients.items() if g is not None})
    still = {n for n, g in dropped[1].gradients.items() if g is not None and not bool(g.any())}
    wrong = [n for n in still if n in reached and bool(reached[n].any())]
    assert not wrong, (
        f"{bench.who}: with every element dropped a gradient reaches "
        f"{', '.join(', '.join(reference.alignment.subject_names(n)) for n in wrong[:3])}; expected none: dropout's "
        "backward pass lets through what its forward pass sets to zero"
    )


def expect_same_probabilities(bench: Bench, got: list[Draw], expected: list[Draw]) -> None:
    """Raise AssertionError where residual branches are kept with other probabilities than the reference's."""
    expected = [d for d in expected if not d.trivial]
    ours, theirs = [d.probability for d in got], [d.probability for d in expected]
    if None in ours or None in theirs:  # drawn as uniform numbers, also where the rate is zero: the levels decide
        decisions = sum(d.decisions(len(LEVELS)) for d in got)
        assert decisions >= len(expected), (
            f"{bench.who}: {decisions} times a random number is drawn for each sample; expected {len(expected)}, one "
            "for each residual branch: what is dropped in one would be dropped in others too"
        )
        return
    assert len(got) == len(expected), (
        f"{bench.who}: {len(got)} residual branches are dropped at random; expected {len(expected)}"
    )
    for number, (p, q) in enumerate(zip(ours, theirs, strict=True), start=1):
        assert p is not None
        assert q is not None
        assert abs(p - q) < 1e-9, (
            f"{bench.who}: residual branch {number} of {len(ours)} is kept with probability {p:.4g}; expected {q:.4g} "
            f"(all: {', '.join(f'{x:.4g}' for x in ours)}; expected {', '.join(f'{x:.4g}' for x in theirs)})"
        )
