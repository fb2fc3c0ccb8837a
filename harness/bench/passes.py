"""One forward and backward pass with every random draw controlled; state is put back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harness.bench.bench import CLASSES, Bench
from harness.errors import SubjectError, some_of
from harness.numerics.controlled_rng import ControlledRng, Draw
from harness.numerics.float64_mode import Float64Mode


@dataclass(frozen=True, kw_only=True)
class PassResult:
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


def snapshot(tensors: Mapping[str, Tensor], elsewhere: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The values of ``tensors``, for `load`: copies, except of what ``elsewhere`` holds bit for bit.

    ``elsewhere`` must stay unchanged until then, and share no memory with ``tensors``.
    """
    there = elsewhere or {}
    return {n: there[n] if n in there and torch.equal(there[n], t) else t.detach().clone() for n, t in tensors.items()}


@torch.no_grad()
def load(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of the same names."""
    own = state(model)
    other = [name for name, value in values.items() if name not in own or own[name].shape != value.shape]
    if other:
        raise SubjectError(
            f"{type(model).__name__}: {some_of(other)} is not there, or of another shape: a forward pass adds or "
            "resizes state, or two instances differ"
        )
    for name, value in values.items():
        own[name].copy_(value)


def run_pass(
    bench: Bench,
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
) -> PassResult:
    """One forward and backward pass with every random draw controlled. The model's state and mode are put back.

    Without ``backward`` the pass is forward only, though recorded; without ``gradients`` it is under no_grad.
    """
    images = images.clone().requires_grad_(gradients)
    randomness = ControlledRng(
        level if isinstance(level, float) else list(level),
        batch=len(images),
        elements="identity" if elements == "identity" else "scaled",
        element_level=element_level,
    )
    with restored(model) as buffers:
        model.train(train)
        with torch.set_grad_enabled(gradients), Float64Mode(), randomness:
            logits = bench.logits(model, images, classes)
            if gradients and backward:
                model.zero_grad(set_to_none=True)
                bench.backward(logits, cotangent(bench, logits))
        expect_same_buffers(bench, model, buffers)
        return PassResult(
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


@contextmanager
def restored(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Restore the modes and buffers afterwards, and remove all gradients. Yields copies of the buffers as they were."""
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    modes = {module: module.training for module in model.modules()}
    try:
        yield buffers
    finally:
        for module, training in modes.items():
            module.training = training
        restore_buffers(model, buffers)
        for parameter in model.parameters():
            parameter.grad = None


@contextmanager
def training_only(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Freeze every parameter but those called ``names``, for as long as the context lasts."""
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trainable.items():
        parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        for parameter in trainable.values():
            parameter.requires_grad_(True)


@torch.no_grad()
def restore_buffers(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Give each buffer its value in ``buffers``; one that a pass has added or resized is left as it is."""
    for name, buffer in model.named_buffers():
        if name in buffers and buffers[name].shape == buffer.shape:
            buffer.copy_(buffers[name])


def expect_same_buffers(bench: Bench, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Raise SubjectError where the buffers' names or shapes differ from ``before``."""
    after = {n: b.shape for n, b in model.named_buffers()}
    other = [n for n in {**before, **after} if n not in before or n not in after or before[n].shape != after[n]]
    if other:
        raise SubjectError(
            f"{bench.who}: a forward pass adds, removes or resizes the buffers {some_of(other)}; expected the "
            "state to keep its names and shapes"
        )


def cotangent(bench: Bench, logits: Tensor) -> Tensor:
    """A fixed random direction for the backward pass, no two entries alike; large, so that clipping shows."""
    generator = torch.Generator().manual_seed(bench.seed + 77)
    return 1e4 * torch.randn(logits.shape, generator=generator, dtype=torch.float64).to(logits)


def float64_logits(bench: Bench, model: nn.Module, images: Tensor) -> Tensor:
    """A copy of the logits, computed in float64 and without gradients, in the mode that the model is in."""
    with torch.no_grad(), Float64Mode():
        return bench.logits(model, images).clone()
