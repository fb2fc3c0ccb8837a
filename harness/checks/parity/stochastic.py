"""Dropout and stochastic depth in train mode, with every random draw answered: no statistics, no luck."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench, seeded
from harness.bench.passes import cotangent, put_back, run_pass
from harness.bench.tolerances import CEILING, bounded, relative, rowwise
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
        _expect_seed_to_decide(bench, made.subject, images)
        _expect_gradients_of_what_was_drawn(bench, made.subject, images)
        _expect_usual_dropout(bench, elementwise)
    per_sample = [d for d in drawn if d.scope(len(images)) == "sample"]
    if per_sample:
        _depth(bench, images, per_sample)
    _dropout(bench, images)


def _depth(bench: Bench, images: Tensor, per_sample: list[Draw]) -> None:
    """Branches are kept with the published probabilities, and rescaled; dropout is taken out on both sides."""
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
        _same_probabilities(bench, per_sample, [d for d in expected.draws if d.scope(len(images)) == "sample"])
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
def _expect_seed_to_decide(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """With torch's own draws: equal after equal seeds, different after different ones.

    The likeliest outcome of stochastic depth alone (nothing is dropped from any of eight samples by EfficientNet-B0)
    has a probability below 1e-3, so that four seeds agree by chance once in 10^9 times.
    """
    buffers = {n: b.clone() for n, b in model.named_buffers()}

    def drawn(seed: int) -> tuple[Tensor, Recorded]:
        with seeded(1000 * bench.seed + seed), Float64Mode(), Recorded(len(images)) as recorded:
            return bench.logits(model.train(), images).clone(), recorded

    try:
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
    finally:
        model.eval()
        put_back(model, buffers)


def _expect_gradients_of_what_was_drawn(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """With torch's own draws, gradients don't depend on where the generator stands when the backward pass begins.

    Activations that are computed anew in the backward pass (checkpointing) have to meet the draws of the forward pass.
    """
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    seen = []
    try:
        for later in (56, 57):
            model.train().zero_grad(set_to_none=True)
            with Float64Mode():
                with seeded(1000 * bench.seed + 55):
                    logits = bench.logits(model, images)
                with seeded(1000 * bench.seed + later):
                    bench.backward(logits, cotangent(bench, logits))
            seen.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
            put_back(model, buffers)
    finally:
        model.eval().zero_grad(set_to_none=True)
        put_back(model, buffers)
    one, other = seen
    least = 1e-6 * max((g.norm().item() for g in one.values()), default=0.0)
    for name, gradient in one.items():
        error = relative(other[name], gradient, max(gradient.norm().item(), least)) if name in other else 1.0
        assert error <= CEILING, (
            f"{bench.who}: in train mode the gradient of {name} changes by {error:.1e} where only the generator's "
            f"state between the forward and the backward pass differs; expected at most {CEILING:.0e}: the backward "
            "pass draws other numbers than the forward pass did (checkpointing with preserve_rng_state=False)"
        )


def _expect_usual_dropout(bench: Bench, elementwise: list[Draw]) -> None:
    """Where the published network is built without dropout, a factory may have the rate that it was trained with."""
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


def _dropout(bench: Bench, images: Tensor) -> None:
    """Elements are kept with the published probability and dropped otherwise, at levels on either side of it."""
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


def _same_probabilities(bench: Bench, got: list[Draw], expected: list[Draw]) -> None:
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
