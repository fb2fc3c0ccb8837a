"""A subject and its references, in float64 on the CPU, holding the same non-degenerate weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.bench.bench import CLASSES, Bench, seeded
from harness.bench.passes import float64_logits, load, state
from harness.bench.tolerances import CEILING, bounded, perturbed, relative, rowwise
from harness.errors import SubjectError, first_line
from harness.numerics.controlled_rng import ControlledRng
from harness.numerics.float64_mode import Float64Mode
from harness.numerics.skip_init import SkipInit
from reference.alignment.graph.trace import named_state
from reference.alignment.match.align import Alignment, AlignmentError, align
from reference.libraries.reference import Reference
from reference.weights.nondegenerate import CALIBRATION, randomise


@dataclass(frozen=True, kw_only=True)
class Transplanted:
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
    grafted: tuple[Transplanted, ...]
    side: int
    classes: int
    rated: dict[str, nn.Module] = field(default_factory=dict)
    """References built with other drop rates, see `with_rates`; they share these weights."""


def transplant(bench: Bench, *, full_size: bool = False) -> Transplant:
    """Build subject and references, randomise the first reference, and carry its weights to the others.

    ``full_size`` builds for the published image size and class count; otherwise for `Bench.small_side` and
    `CLASSES` classes. Made once per subject. Raises SubjectError where no alignment can be found.
    """
    classes = 1000 if full_size else CLASSES
    side = bench.architecture.input_size if full_size else bench.small_side()
    key = "transplant-full" if full_size else "transplant"
    made: Transplant = bench.shared(key, lambda: _transplant(bench, classes, side))
    return made


def other_channels(bench: Bench, channels: int) -> Transplant | None:
    """A transplant for images of another number of channels, where the factory takes it; against one reference."""
    if bench.channel_keyword is None:
        return None
    return _transplant(bench, 1000, bench.small_side(), channels)


def _transplant(bench: Bench, classes: int, side: int, channels: int = 3) -> Transplant:
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
    bench: Bench, subject: nn.Module, classes: int, side: int, sample: Tensor, convention: Mapping[str, Any]
) -> tuple[Transplanted, ...]:
    grafted: list[Transplanted] = []
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
            common = share_parameters(model, alignment, grafted[0].alignment.to_subject(state(grafted[0].model)))
            load(model, {n: t for n, t in alignment.to_reference(state(subject)).items() if n not in common})
        grafted.append(Transplanted(reference=reference, model=model, alignment=alignment, convention=convention))
    return tuple(grafted)


def share_parameters(model: nn.Module, alignment: Alignment, values: Mapping[str, Tensor]) -> set[str]:
    """Let parameters of a reference use the memory of ``values`` (by the subject's names), where the layout is equal.

    Returns their names. ``values`` are another reference's: unlike a subject, a reference doesn't change its parameters
    itself, and a check restores what it changes before it runs another one.
    """
    mapped = alignment.to_reference(values)
    shared = set()
    for name, parameter in model.named_parameters():
        if name in mapped and mapped[name].is_contiguous() and mapped[name].dtype is parameter.dtype:
            parameter.data = mapped[name]
            shared.add(name)
    alignment.reference_graph.trace.state.update(named_state(model))  # it would keep the replaced memory alive
    return shared


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
    bench: Bench,
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
    bench: Bench, subject: nn.Module, grafted: tuple[Transplanted, ...], images: Tensor, classes: int
) -> float:
    with torch.no_grad(), Float64Mode():
        got = bench.logits(subject, images, classes)
        return max(relative(got, g.model(images)) for g in grafted)


def rounding_bound(bench: Bench) -> float:
    """What rounding in another order may do in eval mode: the effect of `PERTURBATION` on the subject itself."""

    def measure() -> float:
        made = transplant(bench)
        images = bench.images(4, made.side, seed=20)
        exact = float64_logits(bench, made.subject, images)
        old = perturbed(made.subject, seed=bench.seed + 21)
        nearby = float64_logits(bench, made.subject, images)
        load(made.subject, old)
        return bounded(10 * rowwise(nearby, exact))

    bound: float = bench.shared("rounding", measure)
    return bound
