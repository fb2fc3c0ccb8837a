"""Gradients reach every parameter, and are the derivatives of what was computed.

Second derivatives, which gradient penalties, sharpness-aware training and influence functions ask for.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.bench.bench import Bench
from harness.bench.passes import PassResult, cotangent, load, run_pass, training_only
from harness.bench.tolerances import CEILING, beside_noise, gradient_errors, gradient_scales, noise, relative, rowwise
from harness.bench.weight_transplant import transplant
from harness.checks.gradient_flow import expect_reach, expect_the_rest_to_learn
from harness.errors import SubjectError, some_of
from harness.numerics.float64_mode import Float64Mode

STEPS = (1e-8, 1e-9, 1e-7)
"""Relative steps: kinks crossed grow with the step, rounding with its inverse, and both with the depth."""
AGREEMENT = 1e-4
DIRECTIONS = 5
FAINT = 1e-12
"""Of the logits' gradients as they are otherwise, which makes 1e-8: far from the smallest number even in float32."""


def check_gradients(bench: Bench) -> None:
    """Every parameter gets a finite gradient that is not zero everywhere, in eval mode under random weights.

    Eval mode, since a bias before a batch-normalisation has a gradient of zero in train mode by mathematics. That it
    gets one at all is looked at in both modes, and at sizes and batches for which values would take too long.
    """
    model = transplant(bench).subject
    outcome = run_pass(bench, model, bench.images(2, bench.small_side(), seed=6), train=False)
    expect_parameter_gradients(bench, outcome.gradients)
    reached = expect_input_gradient(bench, outcome)
    del outcome  # its gradients take as much memory as the network
    expect_gradient_through_frozen(bench, model, reached)
    expect_the_rest_to_learn(bench)
    expect_reach(bench)


def expect_parameter_gradients(bench: Bench, gradients: Mapping[str, Tensor | None]) -> None:
    """Raise AssertionError where a parameter has no gradient, or one that is not finite or zero everywhere."""
    missing = [n for n, g in gradients.items() if g is None]
    assert not missing, (
        f"{bench.who}: no gradient reaches {some_of(missing, 8)}; expected one for every parameter (unused, detached, "
        "or under no_grad)"
    )
    for name, gradient in gradients.items():
        assert gradient is not None
        assert bool(torch.isfinite(gradient).all()), f"{bench.who}: the gradient of {name} is not finite"
        assert bool(gradient.any()), f"{bench.who}: the gradient of {name} is zero everywhere; expected it to matter"


def expect_input_gradient(bench: Bench, outcome: PassResult) -> Tensor:
    """Raise AssertionError where no gradient reaches some sample of the input. Returns the input's gradient."""
    assert outcome.input_gradient is not None, f"{bench.who}: no gradient reaches the input"
    reached = outcome.input_gradient.flatten(1).norm(dim=1)
    assert bool((reached > 0).all()), f"{bench.who}: the input's gradient is zero for some samples of the batch"
    return outcome.input_gradient


def expect_gradient_through_frozen(bench: Bench, model: nn.Module, expected: Tensor) -> None:
    """Raise AssertionError where the input's gradient isn't ``expected`` once every parameter is frozen."""
    try:
        with training_only(model, ()):
            there = run_pass(bench, model, bench.images(2, bench.small_side(), seed=6), train=False).input_gradient
    except SubjectError:  # the logits have no graph at all
        there = None
    error = 1.0 if there is None else rowwise(there, expected)
    assert error <= CEILING, (
        f"{bench.who}: with all parameters frozen the input's gradient is "
        f"{'missing' if there is None else f'off by {error:.1e}'}; expected the same as with them learning: frozen "
        "layers run under no_grad, so that nothing before them learns"
    )


def check_gradcheck(bench: Bench) -> None:
    """The derivative along a random direction in input and weights equals the central difference, in float64.

    A step can cross the kink of a ReLU or a maximum, which spoils the difference along that direction; the smallest of
    three steps rarely does, and rounding stays below it. A backward pass that is wrong is wrong along every direction,
    at every step, so one of `DIRECTIONS` has to agree: correct networks up to ResNet-152 agree to 1e-7 on each.
    """
    model = transplant(bench).subject
    images = bench.images(2, bench.small_side(), seed=7)
    expect_directional_derivative(bench, model, images)
    expect_linear_backward(bench, model, images)
    expect_nan_gradients(bench, model, images)
    expect_second_derivatives(bench)


def expect_directional_derivative(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """Raise AssertionError where the gradient differs from the central difference along each of `DIRECTIONS`."""
    outcome = run_pass(bench, model, images, train=False)
    errors = []
    for number in range(DIRECTIONS):
        errors.append(_directional_error(bench, model, images, outcome, seed=100 * bench.seed + number))
        if errors[-1] <= AGREEMENT:
            break
    bench.notes.update(error=min(errors), bound=AGREEMENT)
    assert min(errors) <= AGREEMENT, (
        f"{bench.who}: along {len(errors)} random directions the gradient differs from the central difference by at "
        f"least {min(errors):.1e} (expected at most {AGREEMENT:.0e} along one of them): part of the backward pass is "
        "cut, scaled or custom"
    )


def expect_linear_backward(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """Raise AssertionError where gradients are not proportional to the logits' gradients, however small these are."""
    gradients = []
    for scale in (1.0, FAINT):
        given = images.clone().requires_grad_()
        with Float64Mode():
            logits = bench.logits(model, given)
        if scale == 1.0:
            expect_accumulation(bench, model, logits)
            given.grad = None
        bench.backward(logits, scale * cotangent(bench, logits))
        gradients.append({"images": given.grad, **{n: p.grad for n, p in model.named_parameters()}})
        model.zero_grad(set_to_none=True)
    plain, faint = gradients
    plain = {n: g for n, g in plain.items() if g is not None and bool(g.any())}
    rescaled = {n: g.div_(FAINT) for n, g in faint.items() if g is not None}
    for name, error in gradient_errors(rescaled, plain).items():
        assert error <= CEILING, (
            f"{bench.who}: from logits' gradients {FAINT:.0e} times as large, that of {name} is off by {error:.1e} "
            f"from {FAINT:.0e} times what it was; expected at most {CEILING:.0e} (relative, float64): small gradients "
            "are cut to zero, or large ones clipped"
        )


def expect_nan_gradients(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """Raise AssertionError where a gradient is finite though the logits' gradients are NaN.

    A loss scaler sees by NaN that a step overflowed.
    """
    given = images.clone().requires_grad_()
    with Float64Mode():
        logits = bench.logits(model, given)
    bench.backward(logits, torch.full_like(logits, float("nan")))
    gradients = {"the images": given.grad, **{n: p.grad for n, p in model.named_parameters()}}
    model.zero_grad(set_to_none=True)
    hidden = [n for n, g in gradients.items() if g is not None and bool(torch.isfinite(g).all())]
    assert not hidden, (
        f"{bench.who}: from logits' gradients that are NaN the gradient of {some_of(hidden)} is finite; expected "
        "NaN, by which a loss scaler sees that a step overflowed (nan_to_num in a hook or a backward pass)"
    )


def expect_accumulation(bench: Bench, model: nn.Module, logits: Tensor) -> None:
    """Raise AssertionError where a second backward pass through the same graph does not double each gradient."""
    sent = cotangent(bench, logits)
    model.zero_grad(set_to_none=True)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    logits.backward(sent, retain_graph=True)
    once = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
    try:
        logits.backward(sent, retain_graph=True)
    except RuntimeError as refused:  # says itself that it can't be done twice
        bench.notes["accumulation"] = f"a second backward pass raised {type(refused).__name__}"
        once = {}
    for name, scale in gradient_scales(once).items():
        twice = parameters[name].grad
        error = 1.0 if twice is None else relative(twice, 2 * once[name], scale)
        assert error <= CEILING, (
            f"{bench.who}: after a second backward pass through the same graph the gradient of {name} is off by "
            f"{error:.1e} from twice the first; expected at most {CEILING:.0e} (relative, float64): the backward pass "
            "overwrites what it saved, or writes gradients where it should add"
        )
    model.zero_grad(set_to_none=True)


def _directional_error(bench: Bench, model: nn.Module, images: Tensor, outcome: PassResult, *, seed: int) -> float:
    tangent = noise(images, torch.Generator().manual_seed(seed))
    tangent.mul_((images.norm() / tangent.norm()).item())
    parts = [] if outcome.input_gradient is None else [(outcome.input_gradient * tangent).sum().item()]
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    scales = {}
    for name, parameter in parameters.items():
        length = sum(d.square().sum().item() * p.numel() / d.numel() for p, d in _directed(parameter, name, seed))
        scales[name] = parameter.norm().item() / math.sqrt(length)
        gradient = outcome.gradients[name]
        if gradient is not None:
            parts.append(scales[name] * sum(_inner(g, d) for g, d in _directed(gradient, name, seed)))
    weights = cotangent(bench, outcome.logits)
    old = {n: p.clone() for n, p in parameters.items()}

    def moved(step: float) -> float:
        with torch.no_grad(), Float64Mode():
            for name, parameter in parameters.items():
                parameter.copy_(old[name])
                for part, drawn in _directed(parameter, name, seed):
                    part.add_(drawn, alpha=step * scales[name])
            return float((bench.logits(model, images + step * tangent) * weights).sum())

    best, size = float("inf"), sum(abs(p) for p in parts) or 1.0
    try:
        for step in STEPS:
            error = abs(sum(parts) - (moved(step) - moved(-step)) / (2 * step)) / size
            best = min(best, error)
            if best <= AGREEMENT:
                break
    finally:
        load(model, old)
    return best


def _directed(tensor: Tensor, name: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of a parameter or of its gradient, each with the direction that belongs to it."""
    return beside_noise(tensor, torch.Generator().manual_seed(seed + zlib.crc32(name.encode())))


def _inner(part: Tensor, drawn: Tensor) -> float:
    return float((part @ drawn).sum() if drawn.ndim == 1 else (part * drawn).sum())


def expect_second_derivatives(bench: Bench) -> None:
    """Raise AssertionError where derivatives of the input's gradient along a direction aren't the reference's.

    In eval mode and float64.

    A network may refuse to be differentiated twice, as fused attention does on the CPU (which is therefore taken
    apart here); it may not give a wrong answer, as a backward pass does whose own derivative autograd can't see.
    """
    made = transplant(bench)
    grafted = made.grafted[0]
    images = bench.images(1, made.side, seed=8)
    direction = noise(images, torch.Generator().manual_seed(bench.seed + 9))
    try:
        expected = _second(bench, grafted.model, images, direction)
        got = _second(bench, made.subject, images, direction)
    except (RuntimeError, NotImplementedError) as refused:
        bench.notes["second_derivatives"] = f"refused ({type(refused).__name__})"
        return
    named = {**grafted.alignment.to_reference(got), "images": got["images"]}
    for name, error in gradient_errors(named, expected).items():
        if name not in named:
            continue
        names = "the images" if name == "images" else ", ".join(grafted.alignment.subject_names(name)) or name
        assert error <= CEILING, (
            f"{bench.who}: differentiated twice, it differs from {grafted.title}: the derivative by {names} of the "
            f"input's gradient is off by {error:.1e}, expected at most {CEILING:.0e} (relative, float64): a custom "
            "backward pass uses what was computed in the forward pass without its graph; mark it once_differentiable "
            "or write it in differentiable operations"
        )


def _second(bench: Bench, model: nn.Module, images: Tensor, direction: Tensor) -> dict[str, Tensor]:
    """Derivatives by the images and each parameter of the input gradient's product with ``direction``."""
    given = images.clone().requires_grad_()
    named = {"images": given, **{n: p for n, p in model.named_parameters() if p.requires_grad}}
    with sdpa_kernel(SDPBackend.MATH), Float64Mode():
        logits = bench.logits(model, given)
        (first,) = torch.autograd.grad(logits, given, cotangent(bench, logits), create_graph=True)
        # backward(), not grad(): that leaves out branches that reach no input, and with them what refuses
        # (once_differentiable), so that a part of the sum would pass for the whole.
        kept = {n: p.grad for n, p in named.items()}
        for parameter in named.values():
            parameter.grad = None
        try:
            (first * direction).sum().backward()
            return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named.items()}
        finally:
            for name, parameter in named.items():
                parameter.grad = kept[name]
