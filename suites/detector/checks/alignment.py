"""A detector and torchvision's, holding the same weights, whatever the detector's are called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.bench.passes import load, state
from harness.errors import SubjectError, first_line
from harness.numerics.controlled_rng import ControlledRng
from harness.numerics.fast_conv import FastConv
from harness.numerics.float64_mode import Float64Mode
from reference.alignment.locate.first_difference import first_deviation
from reference.alignment.match.align import Alignment, AlignmentError, align
from reference.libraries.torchvision_detector import LIBRARY, assembled, torchvision_builder
from reference.weights.nondegenerate import randomise
from suites.detector.checks.bench import CLASSES, build, library_settings

SIDES = (64, 128)
"""Of the images that layers are aligned on."""
LAST = (
    "rpn.head.cls_logits",
    "rpn.head.bbox_pred",
    "roi_heads.box_predictor",
    "head.classification_head.cls_logits",
    "head.regression_head.bbox_reg",
)
"""The reference's layers whose outputs are scores and offsets, in their order, in two stages or in one."""


class Dense(nn.Module):
    """A detector as a function from a batch of images to one number, which depends on every layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (1, 1): the sum of all detections' boxes and scores."""
        found = self.net(list(images))
        return torch.stack([f["boxes"].sum() + f["scores"].sum() for f in found]).sum().reshape(1, 1)


@dataclass(frozen=True, kw_only=True)
class Twins:
    """``subject`` and ``reference`` with the same weights; names are those of `Dense`."""

    subject: Dense
    reference: Dense
    alignment: Alignment
    values: Mapping[str, Tensor]
    """What `fill` gives the reference."""

    def own_name(self, reference_name: str) -> str:
        """The subject's tensor or tensors that hold the reference's ``reference_name``, in words."""
        return ", ".join(plain(n) for n in self.alignment.subject_names(reference_name)) or plain(reference_name)

    def transplant(self) -> None:
        """The same random values in both: no bias at zero, no norm an identity, scores of many candidates near even."""
        load(self.reference, self.values)
        self.share()

    def share(self) -> None:
        """Give the subject the reference's values."""
        load(self.subject, self.alignment.to_subject(state(self.reference)))

    def first_difference(self, images: Tensor, bound: float) -> str:
        """The first layer that differs in use, in words."""
        try:
            with Float64Mode(), ControlledRng(batch=len(images)):
                found = first_deviation(self.subject, self.reference, self.alignment, images, bound=bound)
        except Exception as error:  # a clause that can't be had must not hide the verdict
            return f"the layer could not be found ({type(error).__name__}: {first_line(error)})"
        if found is None or found.subject.startswith("after "):
            return (
                "all layers agree: what is made of the heads' outputs differs (decoding, clipping, suppression, "
                "thresholds)"
            )
        cause = f"; likely cause: {found.cause}" if found.cause else ""
        return f"first layer that differs: {plain(found.subject)} (there {plain(found.reference)}){cause}"


def plain(name: str) -> str:
    """A tensor's name without the wrapper's part."""
    return name.removeprefix("net.")


@torch.no_grad()
def fill(model: nn.Module, seed: int) -> None:
    """Random values for every parameter and statistic of the reference, and scores and offsets of at most order one."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.rand(_enough(model), 3, *SIDES, dtype=torch.float64, generator=generator)
    with FastConv():
        randomise(model, sample, seed=seed)
    known = {name for name, _ in model.named_modules()}
    for name in (n for n in LAST if f"net.{n}" in known):
        layer = model.get_submodule(f"net.{name}")
        seen: list[Tensor] = []
        handle = layer.register_forward_hook(lambda module, given, output, kept=seen: kept.extend(_flat(output)))
        model(sample[:2])
        handle.remove()
        factor = min(0.1, 1 / float(torch.cat(seen).std()))
        for parameter in layer.parameters():
            parameter.mul_(factor)


def _flat(output: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [one.flatten() for one in (output if isinstance(output, tuple) else (output,))]


def _enough(model: nn.Module) -> int:
    """Images whose C5, after resizing, has 32 cells together: a variance of fewer is off by so much that fifty layers
    make scores of hundreds of it."""
    transform: Any = model.get_submodule("net.transform")
    scale: float = min(min(transform.min_size) / min(SIDES), transform.max_size / max(SIDES))
    cells = math.prod(side * scale / 32 for side in SIDES)
    return max(2, math.ceil(32 / cells))


def twins(bench: Bench, *, min_size: int, max_size: int, divisible: int = 32) -> Twins:
    """Both built for images of a size, with the same weights. Raises SubjectError where layers don't correspond.

    Skips where the subject is torchvision's own builder.
    """
    if bench.subject.spec == LIBRARY:
        pytest.skip(f"{LIBRARY} is what others are compared with")
    subject, reference = _built(bench, min_size, max_size, divisible)
    made = Twins(
        subject=subject,
        reference=reference,
        alignment=bench.shared("detector_alignment", lambda: _aligned(bench)),
        values=bench.shared(f"detector_values_{min_size}_{max_size}_{divisible}", lambda: _filled(bench, reference)),
    )
    made.transplant()
    return made


def _filled(bench: Bench, reference: Dense) -> dict[str, Tensor]:
    """Two passes through the reference, which the checks for images of one size share."""
    fill(reference, bench.seed)
    return {name: tensor.clone() for name, tensor in state(reference).items()}


def _built(bench: Bench, min_size: int, max_size: int, divisible: int) -> tuple[Dense, Dense]:
    subject, widths = build(bench, min_size=min_size, max_size=max_size, divisible=0 if divisible == 32 else divisible)
    sizes: dict[str, Any] = {"min_size": min_size, "max_size": max_size, "size_divisible": divisible}
    trunk = bench.architecture.facts.get("trunk")
    if trunk is not None:
        reference = assembled(str(trunk), CLASSES, **{**sizes, **widths})
    else:
        settings = library_settings(bench)
        reference = torchvision_builder(bench.architecture.name, CLASSES, **sizes, **settings)
    return Dense(subject).eval(), Dense(reference.double()).eval()


def _aligned(bench: Bench) -> Alignment:
    subject, reference = _built(bench, min(SIDES), max(SIDES), 32)
    fill(reference, bench.seed)
    sample = torch.rand(1, 3, *SIDES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        with Float64Mode():
            return align(subject, reference, sample, state_dict_map=_names(bench))
    except AlignmentError as error:
        raise SubjectError(f"{bench.who} against torchvision's: {error}") from error
    except SubjectError:
        raise
    except Exception as error:
        raise SubjectError(
            f"{bench.who}: in eval mode, on an image of {SIDES}, alignment raised {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def _names(bench: Bench) -> dict[str, str] | None:
    given = bench.subject.state_dict_map()
    return {f"net.{a}": f"net.{b}" for a, b in given.items()} if given else None
