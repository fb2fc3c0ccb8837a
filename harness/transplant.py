"""A subject and its references, in float64 on the CPU, holding the same non-degenerate weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import SubjectError, first_line
from harness.noise import beside_noise
from harness.numerics.controlled_rng import ControlledRng, Draw
from harness.numerics.float64_mode import Float64Mode
from harness.numerics.skip_init import SkipInit
from harness.workbench import CLASSES, Workbench, seeded
from reference.alignment import Alignment, AlignmentError, align
from reference.library import Reference
from reference.weights import CALIBRATION, randomise

PERTURBATION = 1e-12
"""Relative change of every weight that bounds what rounding may do: a correct float64 implementation rounds each
operation at about 1e-16, and even sums over thousands of terms stay below 1e-13 of their size."""
FLOOR = 1e-11
"""Smallest bound, for outputs that the perturbation happens to leave alone."""
CEILING = 1e-6
"""Largest bound, whatever the conditioning."""


@dataclass(frozen=True, kw_only=True)
class Grafted:
    """A reference that holds the subject's weights."""

    reference: Reference
    model: nn.Module
    alignment: Alignment
    convention: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Library and version."""
        return f"{self.reference.library} {self.reference.version}"


@dataclass(frozen=True, kw_only=True)
class Transplant:
    """The subject and every reference with the same weights. ``side`` is the image side in pixels."""

    subject: nn.Module
    grafted: tuple[Grafted, ...]
    side: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one pass gave: logits, gradients of the input and of every parameter, buffers after it."""

    logits: Tensor
    input_gradient: Tensor | None
    gradients: Mapping[str, Tensor | None]
    buffers: Mapping[str, Tensor]
    draws: tuple[Draw, ...] = field(default=())
    counters: tuple[str, ...] = field(default=())
    """Buffers of one whole number that the pass has moved."""


def state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and floating-point buffer by name (not copies)."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items() if tensor.is_floating_point()}


@torch.no_grad()
def load(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of the same names."""
    own = state(model)
    other = [name for name, value in values.items() if name not in own or own[name].shape != value.shape]
    if other:
        raise SubjectError(
            f"{type(model).__name__}: {', '.join(other[:5])} is not there, or of another shape: a forward pass adds or "
            "resizes state, or two instances differ"
        )
    for name, value in values.items():
        own[name].copy_(value)


def transplant(bench: Workbench, *, full_size: bool = False) -> Transplant:
    """Build subject and references, randomise the first reference, and carry its weights to the others.

    ``full_size`` builds for the published image size and class count; otherwise for `Workbench.small_side` and
    `CLASSES` classes. Made once per subject. Raises SubjectError where no alignment can be found.
    """
    classes = 1000 if full_size else CLASSES
    side = bench.architecture.input_size if full_size else bench.small_side()
    key = "transplant-full" if full_size else "transplant"
    made: Transplant = bench.shared(key, lambda: _transplant(bench, classes, side))
    return made


def other_channels(bench: Workbench, channels: int) -> Transplant | None:
    """A transplant for images of another number of channels, where the factory takes it; against one reference."""
    if bench.channel_keyword is None:
        return None
    return _transplant(bench, 1000, bench.small_side(), channels)


def _transplant(bench: Workbench, classes: int, side: int, channels: int = 3) -> Transplant:
    size: dict[str, Any] = {bench.size_keyword: side} if bench.size_keyword else {}
    if channels != 3:
        assert bench.channel_keyword is not None
        size[bench.channel_keyword] = channels
    subject = (bench.small_copy() if classes == CLASSES else bench.build(classes, **size)).double().eval()
    for parameter in subject.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    sample = bench.images(
        CALIBRATION if bench.architecture.patch is None else 4,  # families with patches have no running statistics
        min(side, 64) if bench.architecture.patch is None else side,
        seed=1,
        channels=channels,
    )
    attempts = []
    for convention in bench.architecture.conventions:
        grafted = _graft(bench, subject, classes, side, sample, convention)
        if not grafted:
            raise SubjectError(f"{bench.who}: no reference library has {bench.architecture.name}")
        attempts.append(grafted)
        if len(bench.architecture.conventions) > 1:
            error = _disagreement(bench, subject, grafted, sample[:2], classes)
            if error < CEILING:
                break
    else:
        if len(attempts) > 1:  # none fits: judge against the first, whose weights the subject must then hold
            first = attempts[0][0]
            load(subject, first.alignment.to_subject(state(first.model)))
            return Transplant(subject=subject, grafted=attempts[0], side=side, classes=classes)
    return Transplant(subject=subject, grafted=attempts[-1], side=side, classes=classes)


def _graft(
    bench: Workbench, subject: nn.Module, classes: int, side: int, sample: Tensor, convention: Mapping[str, Any]
) -> tuple[Grafted, ...]:
    grafted: list[Grafted] = []
    for reference in bench.family.references():
        if classes != CLASSES and grafted:
            break  # at full size one reference decides; all of them do at the small one
        model = build_reference(bench, reference, classes, side, convention, channels=sample.shape[1])
        if model is None:
            continue
        if not grafted:
            with Float64Mode(), ControlledRng(batch=len(sample)):
                randomise(model, sample, seed=bench.seed + 1)

        def others(but: Reference = reference) -> Iterator[nn.Module]:
            for other in bench.family.references():
                built = other is not but and build_reference(
                    bench, other, classes, side, convention, channels=sample.shape[1]
                )
                if built:
                    randomise(built, sample, seed=bench.seed + 2)
                    yield built

        try:
            with seeded(bench.seed), Float64Mode():
                names = _names_in(model, bench.subject.state_dict_map(), others, sample[:1])
                alignment = align(subject, model, sample[:1], state_dict_map=names)
        except AlignmentError as error:
            raise SubjectError(f"{bench.who} against {reference.library} {reference.version}: {error}") from error
        except SubjectError:
            raise
        except Exception as error:
            bench.logits(subject, sample[:1], classes)  # says so where it is the forward pass that fails
            raise SubjectError(
                f"{bench.who} against {reference.library}: alignment raised {type(error).__name__}: {first_line(error)}"
            ) from error
        if not grafted:
            load(subject, alignment.to_subject(state(model)))
        else:
            load(model, alignment.to_reference(state(subject)))
        grafted.append(Grafted(reference=reference, model=model, alignment=alignment, convention=convention))
    return tuple(grafted)


def _names_in(
    model: nn.Module, given: Mapping[str, str] | None, others: Callable[[], Iterable[nn.Module]], sample: Tensor
) -> Mapping[str, str] | None:
    """The user's map in this reference's names; it may be written in the names of any one library."""
    if not given or given.keys() <= model.state_dict().keys():
        return given
    for other in others():
        if given.keys() <= other.state_dict().keys():
            between = align(other, model, sample)
            there = ((name, between.subject_names(name)) for name in model.state_dict())
            return {name: given[names[0]] for name, names in there if len(names) == 1 and names[0] in given}
    return given


def build_reference(
    bench: Workbench,
    reference: Reference,
    classes: int,
    side: int,
    convention: Mapping[str, Any],
    *,
    channels: int = 3,
    rates: Mapping[str, float] | None = None,
    device: str = "cpu",
) -> nn.Module | None:
    """The library's model of the architecture in float64 and eval mode, or None where it has none.

    Its weights are undefined; they have storage only where ``device`` is not "meta".
    """
    size = {"image_size": side} if bench.architecture.patch else {}
    if channels != 3:
        size["in_channels"] = channels
    try:
        with torch.device("meta"), SkipInit():  # its weights are replaced, so drawing initial ones would be for nothing
            model = reference.build(bench.architecture.name, num_classes=classes, **size, **convention, **(rates or {}))
    except KeyError:
        return None
    model.double().eval()
    if device != "meta":
        model.to_empty(device=device)
        for buffer in model.buffers():
            buffer.zero_()
    return model


def _disagreement(
    bench: Workbench, subject: nn.Module, grafted: tuple[Grafted, ...], images: Tensor, classes: int
) -> float:
    with torch.no_grad(), Float64Mode():
        got = bench.logits(subject, images, classes)
        return max(relative(got, g.model(images)) for g in grafted)


def relative(got: Tensor, expected: Tensor, scale: float | None = None) -> float:
    """Norm of the difference over the norm of what was expected; infinite where shapes or finiteness differ."""
    if got.shape != expected.shape:
        return float("inf")
    difference = (got.double() - expected.double()).norm().item()
    size = expected.double().norm().item() if scale is None else scale
    error = difference / size if size else (0.0 if difference == 0 else float("inf"))
    return error if error == error else float("inf")


def rowwise(got: Tensor, expected: Tensor) -> float:
    """The largest `relative` error of any one sample, so that one wrong sample is not averaged away."""
    if got.shape != expected.shape:
        return float("inf")
    typical = expected.double().norm().item() / max(1, len(expected)) ** 0.5
    return max(relative(g, e, max(e.double().norm().item(), 0.1 * typical)) for g, e in zip(got, expected, strict=True))


def run(
    bench: Workbench,
    model: nn.Module,
    images: Tensor,
    *,
    train: bool,
    classes: int = CLASSES,
    level: float | tuple[float, ...] = 0.5,
    elements: str = "scaled",
    element_level: float = 0.5,
    gradients: bool = True,
    backward: bool = True,
) -> Outcome:
    """One forward and backward pass with every random draw controlled. The model's state and mode are put back.

    Without ``backward`` the pass is forward only, though recorded; without ``gradients`` it is under no_grad.
    """
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    mode = {module: module.training for module in model.modules()}
    images = images.clone().requires_grad_(gradients)
    model.train(train)
    randomness = ControlledRng(
        level if isinstance(level, float) else list(level),
        batch=len(images),
        elements="identity" if elements == "identity" else "scaled",
        element_level=element_level,
    )
    try:
        with torch.set_grad_enabled(gradients), Float64Mode(), randomness:
            logits = bench.logits(model, images, classes)
            if gradients and backward:
                model.zero_grad(set_to_none=True)
                bench.backward(logits, cotangent(bench, logits))
        _expect_buffers(bench, model, buffers)
        return Outcome(
            logits=logits.detach(),
            input_gradient=None if images.grad is None else images.grad.detach(),
            gradients={n: p.grad for n, p in model.named_parameters()} if gradients and backward else {},
            buffers={n: b.detach().clone() for n, b in model.named_buffers() if b.is_floating_point()},
            draws=tuple(randomness.draws),
            counters=tuple(
                n
                for n, b in model.named_buffers()
                if b.dtype is torch.int64 and b.numel() == 1 and not torch.equal(b, buffers[n])
            ),
        )
    finally:
        for module, training in mode.items():
            module.training = training
        put_back(model, buffers)
        for parameter in model.parameters():
            parameter.grad = None


@torch.no_grad()
def put_back(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Give each buffer its value in ``buffers``; one that a pass has added or resized is left as it is."""
    for name, buffer in model.named_buffers():
        if name in buffers and buffers[name].shape == buffer.shape:
            buffer.copy_(buffers[name])


def _expect_buffers(bench: Workbench, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    after = {n: b.shape for n, b in model.named_buffers()}
    other = [n for n in {**before, **after} if n not in before or n not in after or before[n].shape != after[n]]
    if other:
        raise SubjectError(
            f"{bench.who}: a forward pass adds, removes or resizes the buffers {', '.join(other[:5])}; expected the "
            "state to keep its names and shapes"
        )


def cotangent(bench: Workbench, logits: Tensor) -> Tensor:
    """A fixed random direction for the backward pass, no two entries alike; large, so that clipping shows."""
    generator = torch.Generator().manual_seed(bench.seed + 77)
    return 1e4 * torch.randn(logits.shape, generator=generator, dtype=torch.float64).to(logits)


@torch.no_grad()
def perturbed(model: nn.Module, *, seed: int) -> dict[str, Tensor]:
    """Change every weight by a relative `PERTURBATION`, in place; returns the old values for `load`."""
    generator = torch.Generator().manual_seed(seed)
    old = {}
    for name, parameter in model.named_parameters():
        old[name] = parameter.detach().clone()
        for part, drawn in beside_noise(parameter, generator):
            part.mul_(drawn.mul(PERTURBATION).add_(1))
    return old


def bounded(sensitivity: float) -> float:
    """The bound that belongs to a measured sensitivity to `PERTURBATION`."""
    return min(max(sensitivity, FLOOR), CEILING)
