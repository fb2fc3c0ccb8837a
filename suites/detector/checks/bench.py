"""A detector on the bench: built small, and given images, targets and weights that make every part matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.errors import SubjectError, first_line
from harness.numerics.fast_conv import FastConv
from harness.process.global_state import generators

CLASSES = 5
"""Background included."""
SMALL: dict[str, Any] = {"width": 16, "hidden": 32}
Detections = list[dict[str, Tensor]]


def build(bench: Bench, *, min_size: int, max_size: int, divisible: int = 0) -> tuple[nn.Module, dict[str, int]]:
    """A float64 detector in eval mode without downloaded weights, and the widths that it has.

    It is narrow where the factory takes ``width`` and ``hidden``. Raises SubjectError.
    """
    keywords: dict[str, Any] = {"min_size": min_size, "max_size": max_size}
    keywords.update(library_settings(bench))
    if divisible:
        keywords["size_divisible"] = divisible
    for name in ("weights", "weights_backbone"):
        if bench.subject.keyword((name,)) or (not bench.architecture.own and bench.subject.takes_any_keyword()):
            keywords[name] = None
    own = {k: int(bench.architecture.facts[k]) for k in SMALL if k in bench.architecture.facts}
    try:
        takes = all(bench.subject.keyword((k,)) for k in SMALL) or bench.subject.takes_any_keyword()
        if own and takes:
            return bench.build(CLASSES, **keywords, **SMALL).double().eval(), dict(SMALL)
    except SubjectError:  # the factory has keywords of its own, and these are not among them
        pass
    return bench.build(CLASSES, **keywords).double().eval(), own


def library_settings(bench: Bench) -> dict[str, Any]:
    """Keywords of a library's detector that keep it small, where the subject's factory takes them."""
    settings: dict[str, Any] = bench.architecture.facts.get("settings", {})
    takes = bench.subject.takes_any_keyword() or all(bench.subject.keyword((k,)) for k in settings)
    return settings if takes else {}


def ready(bench: Bench, *, min_size: int = 64, max_size: int = 128) -> nn.Module:
    """A detector that detects something: a prior that favours background is taken out of its biases."""
    model, _ = build(bench, min_size=min_size, max_size=max_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and parameter.numel() and bool((parameter < -3).all()):
                parameter.zero_()
    return model


def images(bench: Bench, *sizes: tuple[int, int]) -> list[Tensor]:
    """Float64 noise with values from 0 to 1."""
    generator = torch.Generator().manual_seed(1000 * bench.seed + 7)
    return [torch.rand(3, *size, generator=generator, dtype=torch.float64) for size in sizes]


def target(boxes: Sequence[Sequence[float]], labels: Sequence[int]) -> dict[str, Tensor]:
    """As torchvision's detectors take it."""
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def detect(bench: Bench, model: nn.Module, given: Sequence[Tensor]) -> Detections:
    """In eval mode. Raises SubjectError where it raises or gives no list of dicts."""
    shapes = [tuple(i.shape[1:]) for i in given]
    try:
        with torch.no_grad(), FastConv():
            found = model.eval()(given if isinstance(given, list) else list(given))
    except (Exception, SystemExit) as error:
        raise SubjectError(
            f"{bench.who}: in eval mode, on images of {shapes}, raised {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(found, list) or len(found) != len(given) or not all(isinstance(f, dict) for f in found):
        raise SubjectError(f"{bench.who}: eval mode gave {type(found).__name__}; expected a list of {len(given)} dicts")
    for item in found:
        missing = {"boxes", "labels", "scores"} - set(item)
        if missing:
            raise SubjectError(f"{bench.who}: a detection lacks {', '.join(sorted(missing))}; it has {sorted(item)}")
    return found


def losses(
    bench: Bench,
    model: nn.Module,
    given: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    *,
    seed: int | None = None,
) -> dict[str, Tensor]:
    """In train mode; ``seed`` (the bench's) decides the draws. Raises SubjectError where it raises or gives no dict of
    scalars."""
    try:
        with generators(bench.seed if seed is None else seed), FastConv():
            found = model.train()(
                given if isinstance(given, list) else list(given),
                targets if isinstance(targets, list) else list(targets),
            )
    except Exception as error:
        counts = [len(t["boxes"]) for t in targets]
        raise SubjectError(
            f"{bench.who}: in train mode, with {counts} annotated boxes, raised "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(v, Tensor) and v.ndim == 0 for v in found.values())
    ):
        raise SubjectError(f"{bench.who}: train mode gave {type(found).__name__}; expected a dict of scalar losses")
    return found
