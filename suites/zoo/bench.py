"""A bench for a model of which nothing is published: how small its images may be is found by trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.bench.bench import CLASSES, Bench
from harness.bench.weight_transplant import Transplant
from harness.numerics.float64_mode import Float64Mode
from harness.subjects.outputs import logits_of
from harness.subjects.subject import SIZE_KEYWORDS

SIDES = (64, 96, 128, 160, 192, 224)
"""Tried from the smallest on, up to the model's own."""
ALIVE = 0.1
"""Deviation given to what starts at zero."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Images of ``side`` pixels, for which the model is built with ``keywords``."""

    side: int
    keywords: Mapping[str, Any] = field(default_factory=dict)


class ListedBench(Bench):
    """The bench of a model that a library lists. ``full`` stays at the model's own size."""

    def __init__(self, bench: Bench, *, full: bool = False) -> None:
        super().__init__(bench.subject, seed=bench.seed, device=bench.device, compile_backend=bench.compile_backend)
        self.notes = bench.notes
        self.full = full
        self._given = bench

    def logits(self, model: nn.Module, images: Tensor, num_classes: int = CLASSES) -> Tensor:
        """As every bench does; of a model that has auxiliary classifiers in train mode, the first one's."""
        return super().logits(_Main(model) if model.training else model, images, num_classes)

    def small_side(self, *, asking: bool = False) -> int:
        """Side in pixels of the smallest images that the model takes."""
        return self.smallest.side

    @property
    def size(self) -> dict[str, Any]:
        """Keyword arguments that build the model for images of `small_side`."""
        return dict(self.smallest.keywords)

    @cached_property
    def smallest(self) -> Size:
        """The smallest of `SIDES` that the model runs on, built for it where it takes a size; else its own."""
        own = self.architecture.input_size
        if not self.full:
            meta = self._runs(Size(side=own), meta=True)
            for side in (s for s in SIDES if s < own):
                for keywords in (*({k: side} for k in SIZE_KEYWORDS), {}):
                    size = Size(side=side, keywords=keywords)
                    if self._runs(size, meta=meta):
                        self.notes["side"] = side
                        return size
        self.notes["side"] = own
        return Size(side=own)

    def _runs(self, size: Size, *, meta: bool) -> bool:
        """Whether a model can be built for and run on images of that size: on the meta device where that will do."""
        try:
            if meta:
                with torch.no_grad():
                    images = torch.empty(2, 3, size.side, size.side, device="meta")
                    logits_of(self.on_meta(CLASSES, **size.keywords)(images), CLASSES)
                return True
            with torch.no_grad():
                images = torch.zeros(2, 3, size.side, size.side)
                logits_of(self.build(CLASSES, **size.keywords).eval()(images), CLASSES)
        except Exception:  # whatever it is, that size is none that the model takes
            return False
        return True

    def alive(self) -> nn.Module:
        """A float64 model in eval mode in which no parameter hides another: made once."""

        def make() -> nn.Module:
            model = self.small_copy().double().eval()
            self.notes["parameters"] = sum(p.numel() for p in model.parameters())
            enliven(model, seed=self.seed)
            with self._calibration(model), torch.no_grad(), Float64Mode():
                self.logits(model, self.images(4, self.small_side(), seed=1))
            return model

        model: nn.Module = self.shared("alive", make)
        return model

    @contextmanager
    def _calibration(self, model: nn.Module) -> Iterator[None]:
        """While this lasts a forward pass sets running statistics to those of its activations."""
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        momenta = [m.momentum for m in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                norm.eval()

    def prepared(self) -> ListedBench:
        """Itself, with the living model where the shared checks look for a transplanted one."""
        if "transplant" not in self._shared:
            made = Transplant(subject=self.alive(), grafted=(), side=self.small_side(), classes=CLASSES)
            self.share("transplant", made)
        return self


class _Main(nn.Module):
    """The first output of (batch, classes), where a model gives several."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Any:
        """(batch, channels, height, width) -> (batch, classes), or whatever else the model gives."""
        output = self.model(images)
        found = [t for t in output if isinstance(t, Tensor)] if isinstance(output, tuple | list) else []
        same = len(found) > 1 and all(t.shape == found[0].shape for t in found)
        return found[0] if same else output


def listed_bench(bench: Bench, *, full: bool = False) -> ListedBench:
    """The bench that belongs to ``bench``, made once. Raises SubjectError where the model can't be built."""
    made: ListedBench = bench.shared(f"listed-{full}", lambda: ListedBench(bench, full=full))
    made.notes = bench.notes
    return made


@torch.no_grad()
def enliven(model: nn.Module, *, seed: int) -> None:
    """Give a random value to every parameter whose elements are all equal, as norms, biases, layer scales and heads
    are at the start: zero and nearly zero become normal, others vary around what they are."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        start = parameter.flatten()[0].item() if parameter.numel() else 0.0
        if not parameter.numel() or not bool((parameter == start).all()):
            continue
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.copy_(ALIVE * drawn if abs(start) < ALIVE else start * (1 + 2 * ALIVE * drawn))
