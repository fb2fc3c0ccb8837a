"""Comparing what one pass of a subject and of a reference gave, and how far rounding may take them apart."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from harness.checks.localise import locate
from harness.transplant import Grafted, Outcome, Transplant, bounded, load, perturbed, relative, rowwise, run
from harness.workbench import Workbench


def sensitivity_of(
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


USUAL = 1e-8
"""Bound for logits of images like those that the weights were made for."""
UNUSUAL = 1e-3
"""Largest bound for images that a network amplifies: a hundred times their usual size, or photographs."""


def bound_there(
    bench: Workbench, made: Transplant, grafted: Grafted, images: Tensor, expected: Outcome, error: float
) -> float:
    """How far logits may be apart in eval mode on ``images``, where ``error`` is how far they are.

    Above `USUAL` it is what `PERTURBATION` of every weight does to the reference on these very images, which is a
    hundred times and more what rounding does; looked at only where it would decide.
    """
    if error <= USUAL:
        return USUAL
    old = perturbed(grafted.model, seed=bench.seed + 3)
    nearby = run(bench, grafted.model, images, train=False, gradients=False, classes=made.classes)
    load(grafted.model, old)
    return min(max(rowwise(nearby.logits, expected.logits), USUAL), UNUSUAL)


def compare_logits(
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
    """Raise where logits or gradients of ``got`` (the subject's) are not ``expected``; ``sensitivity`` bounds both."""
    compare_logits(bench, made, grafted, images, got, expected, sensitivity, train=train)
    mode = "train" if train else "eval"
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


def _gradient_scales(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """Norms, but at least a millionth of the largest: some gradients are zero by mathematics (a bias before a norm)."""
    norms = {n: g.norm().item() for n, g in gradients.items()}
    least = 1e-6 * max(norms.values())
    return {n: max(v, least) for n, v in norms.items()}


def compare_buffers(
    bench: Workbench, grafted: Grafted, got: Outcome, expected: Outcome, sensitivity: tuple[float, float]
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
