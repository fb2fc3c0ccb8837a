"""Shows that a variant differs from its base model, in a few direct lines that use none of the checks.

Each function takes a `Pair` and gives a number that is zero (or rounding) where both networks compute the same. They
share weights by name, so only the change itself can make a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.subjects.outputs import logits_of

CLASSES = 10
VISIBLE = 1e-9
"""Both compute in float64 and run the same operations but for the change: rounding stays below 1e-12."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Factories of the correct network and of the faulty one, and the image side that both take, in pixels."""

    correct: Callable[..., Any]
    faulty: Callable[..., Any]
    side: int

    def filled(self) -> tuple[nn.Module, nn.Module]:
        """Both in float64 and eval mode with the same random weights; what only one has is random too."""
        correct = filled(self.correct(CLASSES).double().eval())
        faulty = filled(self.faulty(CLASSES).double().eval())
        known = tensors(correct)
        with torch.no_grad():
            for name, tensor in tensors(faulty).items():
                value = known.get(name.removeprefix("net."))
                if value is not None and value.shape == tensor.shape:
                    tensor.copy_(value)
        return correct, faulty

    def images(self, batch: int = 4, height: int | None = None, width: int | None = None) -> Tensor:
        """Standard normal float64 images."""
        generator = torch.Generator().manual_seed(3)
        height = height or self.side
        return torch.randn(batch, 3, height, width or height, generator=generator, dtype=torch.float64)


Evidence = Callable[[Pair], float]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and floating-point buffer by name."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}


@torch.no_grad()
def filled(model: nn.Module) -> nn.Module:
    """Random values of a size that keeps activations of order one."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors(model).items():
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + drawn.abs())
        elif tensor.ndim < 2:
            tensor.copy_(0.3 * drawn + (1.0 if name.endswith("weight") else 0.0))
        else:
            tensor.copy_(drawn * (2.0 / max(1, tensor[0].numel())) ** 0.5)
    return model


def difference(got: Tensor, expected: Tensor) -> float:
    """Relative norm of the difference; one where the shapes differ or a value is not finite."""
    if got.shape != expected.shape or not bool(torch.isfinite(got).all()):
        return 1.0
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """Logits without gradients."""
    with torch.no_grad():
        return logits_of(model(images), CLASSES).clone()


def output(pair: Pair) -> float:
    """Of the logits in eval mode."""
    correct, faulty = pair.filled()
    return difference(forward(faulty, pair.images()), forward(correct, pair.images()))


def output_at(batch: int = 4, height: int | None = None, width: int | None = None) -> Evidence:
    """Of the logits in eval mode for images of one shape; one where only the faulty network refuses them."""

    def measure(pair: Pair) -> float:
        correct, faulty = pair.filled()
        images = pair.images(batch, height, width)
        expected = forward(correct, images)
        try:
            return difference(forward(faulty, images), expected)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return 1.0

    return measure


def train_output(pair: Pair) -> float:
    """Of the logits in train mode over eight seeds, with the generator at the same place."""
    correct, faulty = pair.filled()
    return max(difference(_trained(faulty, pair, seed), _trained(correct, pair, seed)) for seed in range(8))


def _trained(model: nn.Module, pair: Pair, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return forward(model.train(), pair.images())


def statistics(pair: Pair) -> float:
    """The largest of any buffer after one forward pass in train mode."""
    correct, faulty = pair.filled()
    for model in (correct, faulty):
        _trained(model, pair, 0)
    ours = {n.removeprefix("net."): b.double() for n, b in faulty.named_buffers()}
    return max(difference(ours[n], b.double()) for n, b in correct.named_buffers() if n in ours)


def gradient(pair: Pair) -> float:
    """The largest of any gradient, of a parameter or of the input, in eval mode; one where it is missing."""
    return _gradient(pair, pair.images(), train=False)


def train_gradient(pair: Pair, shape: tuple[int, int, int, int]) -> float:
    """`gradient` in train mode, on random images of ``shape``."""
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return _gradient(pair, images, train=True)


def _gradient(pair: Pair, images: Tensor, *, train: bool) -> float:
    expected, got = (gradients(model.train(train), images) for model in pair.filled())
    return max(difference(got[n], e) if n in got else 1.0 for n, e in expected.items() if float(e.norm()) > 0)


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Of the logits' weighted sum, by parameter; the input's is called ``images``."""
    images = images.clone().requires_grad_()
    logits = logits_of(model(images), CLASSES)
    weights = torch.linspace(0.5, 1.5, logits.numel(), dtype=logits.dtype).view(logits.shape)
    (logits * weights).sum().backward()
    named = {"images": images, **{n.removeprefix("net."): p for n, p in model.named_parameters()}}
    return {n: t.grad for n, t in named.items() if t.grad is not None}


def parameters(pair: Pair) -> float:
    """How many parameters more or fewer; half of one where only their shapes or what trains differ."""
    counts = []
    for factory in (pair.faulty, pair.correct):
        shapes = sorted((tuple(p.shape), p.requires_grad) for p in factory(CLASSES).parameters())
        counts.append((sum(p.numel() for p in factory(CLASSES).parameters()), shapes))
    (got, ours), (expected, theirs) = counts
    return float(abs(got - expected)) or (0.5 if ours != theirs else 0.0)


def float32_output(pair: Pair) -> float:
    """Of the logits in float32, in units of float32's resolution per hundred."""
    correct, faulty = pair.filled()
    images = pair.images().float()
    return difference(forward(faulty.float(), images), forward(correct.float(), images)) / (100 * 2.0**-23) * VISIBLE


def after_steps(count: int) -> Evidence:
    """The largest of any parameter or buffer after ``count`` SGD steps in train mode."""

    def measure(pair: Pair) -> float:
        trained = []
        for model in pair.filled():
            torch.manual_seed(0)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
            model.train()
            for step in range(count):
                optimizer.zero_grad()
                images = pair.images() * (1 + step)
                nn.functional.cross_entropy(logits_of(model(images), CLASSES), torch.arange(len(images))).backward()
                optimizer.step()
            trained.append({n.removeprefix("net."): t.detach() for n, t in tensors(model).items()})
        correct, faulty = trained
        return max(difference(faulty[n], t) for n, t in correct.items() if n in faulty)

    return measure


ODD = output_at(2, 63, 64)
WIDE = output_at(2, 64, 96)
ALONE = output_at(1)


def trained_at(batch: int) -> Any:
    """Evidence: the difference of logits in train mode for ``batch`` images."""

    def evidence(pair: Pair) -> float:
        correct, faulty = pair.filled()
        images = pair.images(batch)
        return difference(forward(faulty.train(), images), forward(correct.train(), images))

    return evidence


def _laid_out(layout: torch.memory_format) -> Evidence:
    """Evidence: the difference for images in another memory format; one where only the faulty network refuses them."""

    def measure(pair: Pair) -> float:
        correct, faulty = pair.filled()
        correct, faulty = correct.float(), faulty.float()
        images = pair.images().float().contiguous(memory_format=layout)
        expected = forward(correct, images)
        try:
            return difference(forward(faulty, images), expected)
        except RuntimeError:
            return 1.0

    return measure


CHANNELS_LAST = _laid_out(torch.channels_last)


def undefined(pair: Pair) -> float:
    """Evidence: by how many more NaN logits the correct network answers images with a NaN pixel."""
    correct, faulty = pair.filled()
    images = pair.images()
    images[:, :, 10, 10] = float("nan")
    return float(forward(correct, images).isnan().sum() - forward(faulty, images).isnan().sum())


def trained_with(classes: int) -> Callable[[Pair], float]:
    """The difference of logits in train mode where both are built for that many classes and hold the same weights."""

    def measured(pair: Pair) -> float:
        logits = []
        for factory in (pair.correct, pair.faulty):
            torch.manual_seed(0)
            model = factory(classes).double().train()
            torch.manual_seed(1)
            logits.append(model(pair.images()).detach())
        return difference(logits[1], logits[0])

    return measured


def alone(pair: Pair, learns: str) -> float:
    """One if a gradient that the correct network has is missing where only what is named so learns, in train mode."""
    found = []
    for model in pair.filled():
        for name, parameter in model.train().named_parameters():
            parameter.requires_grad_(learns in name)
        logits = model(pair.images())
        if logits.requires_grad:
            logits.sum().backward()
        found.append({n for n, p in model.named_parameters() if p.grad is not None})
    return float(found[0] != found[1])


Networks = Callable[[Pair], tuple[Any, Any]]
"""Gives the correct network and the faulty one, with the same weights."""


def compared(measure: Callable[[Any, Pair], Tensor], networks: Networks = Pair.filled) -> Evidence:
    """Evidence: the difference of what ``measure`` gives for both networks."""

    def measured(pair: Pair) -> float:
        correct, faulty = (measure(model, pair).detach() for model in networks(pair))
        return difference(faulty, correct)

    return measured
