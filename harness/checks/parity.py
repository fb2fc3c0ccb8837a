"""Numerical parity with the references, in float64 with the same non-degenerate weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from hypothesis import given
from torch import Tensor

from harness.checks.localise import locate
from harness.lifting import LiftFloat32
from harness.randomness import ControlledRandomness
from harness.reproduce import describe_failure
from harness.strategies import examples, image_sizes
from harness.transplant import (
    CEILING,
    Grafted,
    Outcome,
    Transplant,
    bounded,
    build_reference,
    load,
    other_channels,
    perturbed,
    relative,
    rowwise,
    run,
    state,
    transplant,
)
from harness.workbench import Workbench

EXAMPLES = 7
"""Image sizes drawn for the forward comparison (five times as many under the nightly profile)."""


def check_parity_eval(bench: Workbench) -> None:
    """Logits, and the gradients of the input and of every parameter, equal each reference's in eval mode."""
    made = transplant(bench)
    images = bench.images(3, made.side, seed=2)
    got = run(bench, made.subject, images, train=False)
    sensitivity = None
    for grafted in made.grafted:
        expected = run(bench, grafted.model, images, train=False)
        if sensitivity is None:
            sensitivity = _sensitivity(bench, grafted, images, expected, train=False)
            bench.share("sensitivity", sensitivity)
        _compare(bench, made, grafted, images, got, expected, sensitivity, train=False)


def check_parity_sizes(bench: Workbench) -> None:
    """Logits equal the references' for drawn batch sizes, heights and widths."""
    made = transplant(bench)

    @examples(1 / 12, least=EXAMPLES, shrink=False)
    @given(image_sizes(bench.architecture, side=made.side, largest=90, largest_batch=4))
    def sizes(shape: tuple[int, int, int]) -> None:
        _same_logits(bench, made, bench.images(*shape, seed=4))

    describe_failure(bench, sizes)
    # What no drawn example has: a large batch, loud and faint images, another number of channels and of classes.
    small = made.side if bench.architecture.patch else bench.architecture.minimum_size
    _same_logits(bench, made, bench.images(65 if bench.architecture.patch is None else 33, small, seed=60))
    loud = bench.images(3, small, seed=61)
    _same_logits(bench, made, torch.cat([100 * loud[:1], loud[1:2] / 100, loud[2:].abs() + 300]))
    if bench.architecture.patch is None:  # larger than published, and as wide or tall as a panorama
        least = bench.architecture.minimum_size
        for height, width in ((239, 233), (least, 6 * least + 5), (6 * least + 5, least)):
            _same_logits(bench, made, bench.images(1, height, width, seed=64))
    channelled = other_channels(bench, 4)
    if channelled is not None:
        _same_logits(bench, channelled, bench.images(2, channelled.side, seed=62, channels=4))


def check_parity_train(bench: Workbench) -> None:
    """In train mode, with every random draw controlled: logits, gradients and updated statistics equal."""
    made = transplant(bench)
    images = bench.images(4, made.side, seed=5)
    elements, rates = regularisation(bench, made)
    got = run(bench, made.subject, images, train=True, elements=elements)
    sensitivity = None
    for grafted in made.grafted:
        reference = with_rates(bench, made, grafted, rates)
        expected = run(bench, reference.model, images, train=True, elements=elements)
        if sensitivity is None and not expected.buffers and not got.draws:
            sensitivity = bench.shared("sensitivity", lambda: None)  # train mode computes what eval mode does
        sensitivity = sensitivity or _sensitivity(bench, reference, images, expected, train=True, elements=elements)
        _compare(bench, made, reference, images, got, expected, sensitivity, train=True)
        _compare_buffers(bench, reference, got, expected, sensitivity)
    reference = with_rates(bench, made, made.grafted[0], rates)
    for batch, height, width in _train_shapes(bench, made):
        others = bench.images(batch, height, width, seed=63)
        got_there = run(bench, made.subject, others, train=True, elements=elements)
        expected = run(bench, reference.model, others, train=True, elements=elements)
        _compare(bench, made, reference, others, got_there, expected, (CEILING, CEILING), train=True)
    unrecorded = run(bench, made.subject, images, train=True, elements=elements, gradients=False)
    for name, buffer in unrecorded.buffers.items():
        assert relative(buffer, got.buffers[name]) <= CEILING, (
            f"{bench.who}: in train mode under no_grad {name} is updated differently than with gradients; expected the "
            "same (statistics are often recalibrated under no_grad)"
        )


def _train_shapes(bench: Workbench, made: Transplant) -> tuple[tuple[int, int, int], ...]:
    """Batches that a training loop meets besides the usual one: the last of an epoch with one image, a large one, and
    an odd size.

    The statistics of one image need many places (here sixteen in the last stage), or rounding is amplified a
    million-fold.
    """
    if bench.architecture.patch is not None:
        return (1, made.side, made.side), (17, made.side, made.side)
    least = bench.architecture.minimum_size
    return (1, 4 * least, 4 * least), (17, least, least), (2, least + 43, least + 21)


def regularisation(bench: Workbench, made: Transplant) -> tuple[str, dict[str, float]]:
    """How element-wise draws are answered, and the rates that the references are built with.

    A subject may leave dropout and stochastic depth out (rate zero), as timm's factories do; where it draws, the
    published rates hold. Where the publication has no rates of its own, dropout is taken out on both sides.
    """
    images = bench.images(4, made.side, seed=5)
    draws = bench.shared("draws", lambda: run(bench, made.subject, images, train=True, gradients=False).draws)
    drawn = {d.scope(len(images)) for d in draws if not d.trivial}
    facts = bench.architecture.facts
    rates: dict[str, float] = {}
    if "drop_path" in facts:
        rates["drop_path"] = facts["drop_path"] if drawn & {"sample", "batch"} else 0.0
    if "dropout" in facts:
        rates["dropout"] = facts["dropout"] if "element" in drawn else 0.0
    return ("scaled" if facts.get("dropout") else "identity"), rates


def with_rates(bench: Workbench, made: Transplant, grafted: Grafted, rates: Mapping[str, float]) -> Grafted:
    """The same reference built with other dropout and stochastic depth rates."""
    if not rates:
        return grafted
    key = f"rates-{grafted.reference.library}-{sorted(rates.items())}-{made.side}"

    def make() -> torch.nn.Module:
        model = build_reference(bench, grafted.reference, made.classes, made.side, grafted.convention, rates=rates)
        assert model is not None
        model = model.double().eval()
        load(model, state(grafted.model))
        return model

    return Grafted(
        reference=grafted.reference,
        model=bench.shared(key, make),
        alignment=grafted.alignment,
        convention=grafted.convention,
    )


def check_parity_trajectory(bench: Workbench) -> None:
    """Parameters and statistics after five SGD steps (momentum 0.9, weight decay 1e-4) equal the reference's."""
    made = transplant(bench)
    grafted = made.grafted[0]
    side = made.side if bench.architecture.patch else max(48, bench.architecture.minimum_size)
    images = [bench.images(3, side, seed=10 + step) for step in range(5)]
    elements, rates = regularisation(bench, made)
    reference = with_rates(bench, made, grafted, rates)
    with _put_back(reference.model), _put_back(made.subject):
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
def _put_back(model: torch.nn.Module) -> Iterator[None]:
    """Leave every parameter and floating-point buffer as it was."""
    kept = {n: t.clone() for n, t in state(model).items()}
    try:
        yield
    finally:
        load(model, kept)


def _scales(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Norms, but at least a millionth of the typical one."""
    norms = {n: t.norm().item() for n, t in tensors.items()}
    least = 1e-6 * sum(norms.values()) / len(norms)
    return {n: max(v, least) for n, v in norms.items()}


def _train(bench: Workbench, model: torch.nn.Module, batches: list[Tensor], rate: float | None, elements: str) -> float:
    """Take one step per batch. Returns the learning rate: by default one at which the first step changes the weights
    by a hundredth of their norm."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate or 1.0, momentum=0.9, weight_decay=1e-4, fused=True)
    modes = {m: m.training for m in model.modules()}
    model.train()
    for images in batches:
        optimizer.zero_grad(set_to_none=True)
        controlled = ControlledRandomness(
            batch=len(images), elements="identity" if elements == "identity" else "scaled"
        )
        with LiftFloat32(), controlled:
            logits = bench.logits(model, images)
            targets = torch.arange(len(images)) % logits.shape[1]
            bench.backward(torch.nn.functional.cross_entropy(logits, targets))
        if rate is None:
            length = _norm([p.grad for p in model.parameters() if p.grad is not None])
            rate = 0.01 * _norm([p.detach() for p in model.parameters()]) / length if length else 0.01
            optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    for module, training in modes.items():
        module.training = training
    for parameter in model.parameters():
        parameter.grad = None
    assert rate is not None
    return rate


def _norm(tensors: list[Tensor]) -> float:
    return float(sum(t.norm().item() ** 2 for t in tensors) ** 0.5)


def _sensitivity(
    bench: Workbench, grafted: Grafted, images: Tensor, exact: Outcome, *, train: bool, elements: str = "scaled"
) -> tuple[float, float]:
    """What `PERTURBATION` of every weight does to a reference's logits and gradients."""
    old = perturbed(grafted.model, seed=bench.seed + 3)
    nearby = run(bench, grafted.model, images, train=train, elements=elements)
    load(grafted.model, old)
    gradients = {n: g for n, g in exact.gradients.items() if g is not None}
    scales = _gradient_scales(gradients)
    moved = {n: g for n, g in nearby.gradients.items() if g is not None}
    assert exact.input_gradient is not None
    assert nearby.input_gradient is not None
    through = relative(nearby.input_gradient, exact.input_gradient)
    worst = max(relative(moved[n], g, scales[n]) for n, g in gradients.items())
    return max(rowwise(nearby.logits, exact.logits), through), max(worst, through)


def _gradient_scales(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """Norms, but at least a millionth of the largest: some gradients are zero by mathematics (a bias before a norm)."""
    norms = {n: g.norm().item() for n, g in gradients.items()}
    least = 1e-6 * max(norms.values())
    return {n: max(v, least) for n, v in norms.items()}


def _same_logits(bench: Workbench, made: Transplant, images: Tensor) -> None:
    with torch.no_grad():
        got = run(bench, made.subject, images, train=False, gradients=False, classes=made.classes)
        for grafted in made.grafted[:1]:  # that the references agree with one another is settled by check_parity_eval
            expected = run(bench, grafted.model, images, train=False, gradients=False, classes=made.classes)
            error, bound = rowwise(got.logits, expected.logits), 1e-8
            bench.notes.update(error=max(error, bench.notes.get("error", 0.0)), bound=bound)
            if error > bound:
                raise AssertionError(
                    f"{bench.who} differs from {grafted.title} on images {tuple(images.shape)} in eval mode: logits "
                    f"are off by {error:.1e}, expected at most {bound:.1e} (relative, float64)"
                    + locate(bench, made.subject, grafted, images, bound, train=False)
                )


def _compare(
    bench: Workbench,
    made: Transplant,
    grafted: Grafted,
    images: Tensor,
    got: Outcome,
    expected: Outcome,
    sensitivity: tuple[float, float],
    *,
    train: bool,
) -> None:
    mode = "train" if train else "eval"
    error, bound = rowwise(got.logits, expected.logits), bounded(sensitivity[0])
    bench.notes.update({f"error {grafted.reference.library}": error, "bound": bound})
    if error > bound:
        raise AssertionError(
            f"{bench.who} differs from {grafted.title} in {mode} mode: logits are off by {error:.1e} on images "
            f"{tuple(images.shape)}, expected at most {bound:.1e} (relative, float64)"
            + locate(bench, made.subject, grafted, images, bound, train=train)
        )
    bound = bounded(10 * sensitivity[1])
    missing = [n for n, g in got.gradients.items() if g is None]
    assert not missing, (
        f"{bench.who}: in {mode} mode no gradient reaches {_some(missing)}, though the output is as {grafted.title}'s"
    )
    mapped = grafted.alignment.to_reference({n: g for n, g in got.gradients.items() if g is not None})
    there = {n: g for n, g in expected.gradients.items() if g is not None}
    scales = _gradient_scales(there)
    errors = {n: relative(mapped[n], g, scales[n]) for n, g in there.items() if n in mapped}
    wrong = [n for n in reversed(list(there)) if errors.get(n, 0.0) > bound]  # nearest to the output first
    bench.notes.update({f"gradient error {grafted.reference.library}": max(errors.values()), "gradient bound": bound})
    if wrong:
        first = wrong[0]
        names = ", ".join(grafted.alignment.subject_names(first)) or first
        raise AssertionError(
            f"{bench.who}: the outputs agree with {grafted.title} in {mode} mode but the gradients do not: "
            f"{len(wrong)} of {len(there)} parameters differ; seen from the output the first is {names} (there "
            f"{first}), off by {errors[first]:.1e}, expected at most {bound:.1e} (relative, float64). Look between it "
            "and the next layer for a detached or scaled branch, a no_grad block, or a custom backward"
        )
    assert got.input_gradient is not None, f"{bench.who}: in {mode} mode no gradient reaches the input"
    assert expected.input_gradient is not None
    error = relative(got.input_gradient, expected.input_gradient)
    assert error <= bound, (
        f"{bench.who}: the gradient of the input differs from {grafted.title} in {mode} mode by {error:.1e}, "
        f"expected at most {bound:.1e} (relative, float64), though all parameters' gradients agree"
    )


def _compare_buffers(
    bench: Workbench, grafted: Grafted, got: Outcome, expected: Outcome, sensitivity: tuple[float, float]
) -> None:
    mapped = grafted.alignment.to_reference(dict(got.buffers))
    bound = bounded(10 * sensitivity[0])
    for name, there in expected.buffers.items():
        if name not in mapped:
            continue
        error = relative(mapped[name], there)
        assert error <= bound, (
            f"{bench.who}: after one step in train mode {', '.join(grafted.alignment.subject_names(name)) or name} "
            f"(there {name}) is off by {error:.1e}, expected at most {bound:.1e} (relative, float64): "
            + _momentum(grafted, name, mapped[name], there)
        )


def _momentum(grafted: Grafted, name: str, got: Tensor, expected: Tensor) -> str:
    """Which momentum the update looks like: got = old + m' * (new - old) where the reference has m."""
    old = dict(grafted.model.named_buffers())[name]
    owner = grafted.model.get_submodule(name.rpartition(".")[0])
    m = getattr(owner, "momentum", None) or 0.1
    step, there = (got - old).flatten(), (expected - old).flatten()
    factor = float(step @ there / (there @ there)) if float(there @ there) else 0.0
    residual = float((step - factor * there).norm() / there.norm()) if float(there.norm()) else 1.0
    if float(step.norm()) == 0:
        return "it did not change, so the statistics are not updated (a norm left in eval mode?)"
    if residual < 1e-6:
        return f"the update is {factor:.4g} of the expected one: momentum {factor * m:.4g} instead of {m:.4g}"
    return f"the statistics are not those of the batch (momentum {m:.4g}, unbiased variance)"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
