"""Bounds and comparisons of logits, gradients and buffers; the first layer that differs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.bench.passes import PassResult, load, run_pass, state
from harness.bench.tolerances import bounded, gradient_errors, perturbed, relative, rowwise
from harness.bench.weight_transplant import Transplant, Transplanted, build_reference
from harness.errors import first_line, some_of
from harness.numerics.controlled_rng import ControlledRng, Draw
from harness.numerics.float64_mode import Float64Mode
from reference.alignment.locate.first_difference import first_deviation


def sensitivity_of(
    bench: Bench,
    made: Transplant,
    grafted: Transplanted,
    images: Tensor,
    exact: PassResult,
    *,
    train: bool,
    elements: str = "scaled",
) -> tuple[float, float]:
    """What `PERTURBATION` of every weight does to a reference's logits and gradients."""
    old = _perturbed(bench, made, grafted)
    nearby = run_pass(bench, grafted.model, images, train=train, elements=elements)
    load(grafted.model, old)
    assert exact.input_gradient is not None
    assert nearby.input_gradient is not None
    through = relative(nearby.input_gradient, exact.input_gradient)
    worst = max(gradient_errors(nearby.gradients, exact.gradients).values())
    return max(rowwise(nearby.logits, exact.logits), through), max(worst, through)


def eval_sensitivity(bench: Bench, made: Transplant, exact: PassResult | None = None) -> tuple[float, float]:
    """`sensitivity_of` the first reference in eval mode, on `eval_images`; measured once, whichever check comes first.

    ``exact`` is that reference's pass on these images, where the caller has it already.
    """

    def measure() -> tuple[float, float]:
        images, first = eval_images(bench, made), made.grafted[0]
        given = exact or run_pass(bench, first.model, images, train=False)
        return sensitivity_of(bench, made, first, images, given, train=False)

    sensitivity: tuple[float, float] = bench.shared("sensitivity", measure)
    return sensitivity


def eval_images(bench: Bench, made: Transplant) -> Tensor:
    """The images (3, 3, side, side) on which eval mode is compared with every reference."""
    return bench.images(3, made.side, seed=2)


USUAL = 1e-8
"""Bound for logits of images like those that the weights were made for."""
UNUSUAL = 1e-3
"""Largest bound for images that a network amplifies: a hundred times their usual size, or photographs."""


def bound_there(
    bench: Bench, made: Transplant, grafted: Transplanted, images: Tensor, expected: PassResult, error: float
) -> float:
    """How far logits may be apart in eval mode on ``images``, where ``error`` is how far they are.

    Above `USUAL` it is what `PERTURBATION` of every weight does to the reference on these very images, which is a
    hundred times and more what rounding does; looked at only where it would decide.
    """
    if error <= USUAL:
        return USUAL
    old = _perturbed(bench, made, grafted)
    nearby = run_pass(bench, grafted.model, images, train=False, gradients=False, classes=made.classes)
    load(grafted.model, old)
    return min(max(rowwise(nearby.logits, expected.logits), USUAL), UNUSUAL)


def _perturbed(bench: Bench, made: Transplant, grafted: Transplanted) -> dict[str, Tensor]:
    """`perturbed` for a reference, whose weights the subject holds too, which is not run before they are back."""
    return perturbed(grafted.model, seed=bench.seed + 3, elsewhere=grafted.alignment.to_reference(state(made.subject)))


def compare_logits(
    bench: Bench,
    made: Transplant,
    grafted: Transplanted,
    images: Tensor,
    got: PassResult,
    expected: PassResult,
    sensitivity: tuple[float, float],
    *,
    train: bool,
) -> None:
    """Raise where the logits of ``got`` are not ``expected``, naming the first layer that differs."""
    mode = "train" if train else "eval"
    error, bound = rowwise(got.logits, expected.logits), bounded(sensitivity[0])
    bench.notes.update({f"error {grafted.reference.library}": error, "bound": bound})
    if error > bound:
        raise AssertionError(
            f"{bench.who} differs from {grafted.title} in {mode} mode: logits are off by {error:.1e} on images "
            f"{tuple(images.shape)}, expected at most {bound:.1e} (relative, float64)"
            + locate(bench, made.subject, grafted, images, bound, train=train)
        )


def compare(
    bench: Bench,
    made: Transplant,
    grafted: Transplanted,
    images: Tensor,
    got: PassResult,
    expected: PassResult,
    sensitivity: tuple[float, float],
    *,
    train: bool,
) -> None:
    """Raise where logits or gradients of ``got`` (the subject's) are not ``expected``; ``sensitivity`` bounds both."""
    compare_logits(bench, made, grafted, images, got, expected, sensitivity, train=train)
    mode = "train" if train else "eval"
    bound = bounded(10 * sensitivity[1])
    missing = [n for n, g in got.gradients.items() if g is None]
    assert not missing, (
        f"{bench.who}: in {mode} mode no gradient reaches {some_of(missing)}, though the output is as {grafted.title}'s"
    )
    mapped = grafted.alignment.to_reference({n: g for n, g in got.gradients.items() if g is not None})
    there = gradient_errors(mapped, expected.gradients)
    errors = {n: e for n, e in there.items() if n in mapped}
    wrong = [n for n in reversed(list(errors)) if errors[n] > bound]  # nearest to the output first
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


def compare_buffers(
    bench: Bench, grafted: Transplanted, got: PassResult, expected: PassResult, sensitivity: tuple[float, float]
) -> None:
    """Raise where a running statistic after a pass in train mode is not the reference's."""
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


def _momentum(grafted: Transplanted, name: str, got: Tensor, expected: Tensor) -> str:
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


def locate(
    bench: Bench, subject: nn.Module, grafted: Transplanted, images: Tensor, bound: float, *, train: bool
) -> str:
    """A clause that names the first aligned layer that differs; the aligned layers go to the notes."""
    bench.notes["layers"] = [vars(layer) for layer in grafted.alignment.layers]
    try:
        with Float64Mode(), ControlledRng(batch=len(images)):
            found = first_deviation(subject, grafted.model, grafted.alignment, images, bound=bound, train=train)
    except Exception as error:  # a clause that can't be had must not hide the verdict
        return f"; the layer could not be found ({type(error).__name__}: {first_line(error)})"
    if found is None:
        return "; every aligned layer agrees, so the deviation lies after the last one"
    bench.notes["deviation"] = dict(vars(found))
    cause = f"; likely cause: {found.cause}" if found.cause else ""
    return (
        f"; first layer that differs: {found.subject} (there {found.reference}, stage {found.stage}), "
        f"{found.error:.1e} there, {found.error_before:.1e} just before{cause}"
    )


def regularisation(bench: Bench) -> tuple[str, dict[str, float]]:
    """How element-wise draws are answered, and the rates that the references are built with.

    A subject may leave dropout and stochastic depth out (rate zero), as timm's factories do; where it draws, the
    published rates hold. Where the publication has no rates of its own, dropout is taken out on both sides. What it
    draws is seen at a small size and few classes, and holds at every other.
    """
    images = bench.images(4, bench.small_side(), seed=5)

    def draw() -> tuple[Draw, ...]:
        return run_pass(bench, bench.small_copy().double(), images, train=True, gradients=False).draws

    draws = bench.shared("draws", draw)
    drawn = {d.scope(len(images)) for d in draws if not d.trivial}
    facts = bench.architecture.facts
    rates: dict[str, float] = {}
    if "drop_path" in facts:
        rates["drop_path"] = facts["drop_path"] if drawn & {"sample", "batch"} else 0.0
    if "dropout" in facts:
        rates["dropout"] = facts["dropout"] if "element" in drawn else 0.0
    return ("scaled" if facts.get("dropout") else "identity"), rates


def with_rates(bench: Bench, made: Transplant, grafted: Transplanted, rates: Mapping[str, float]) -> Transplanted:
    """The same reference built with other dropout and stochastic depth rates; it shares the weights."""
    if not rates:
        return grafted
    key = f"{grafted.reference.library}-{sorted(rates.items())}"
    if key not in made.rated:
        model = build_reference(
            bench, grafted.reference, made.classes, made.side, grafted.convention, rates=rates, device="meta"
        )
        assert model is not None
        made.rated[key] = _holding(model, grafted.model)
    return Transplanted(
        reference=grafted.reference,
        model=made.rated[key],
        alignment=grafted.alignment,
        convention=grafted.convention,
    )


def _holding(model: torch.nn.Module, other: torch.nn.Module) -> torch.nn.Module:
    """``model`` with the parameters and buffers of ``other``, which has the same names."""
    for name, module in other.named_modules():
        there = model.get_submodule(name)
        for key, parameter in module.named_parameters(recurse=False):
            setattr(there, key, parameter)
        for key, buffer in module.named_buffers(recurse=False):
            setattr(there, key, buffer)
    return model
