"""Errors, the perturbations that bound what rounding may do, and deterministic noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.bench.passes import snapshot

PERTURBATION = 1e-12
"""Relative change of every weight that bounds what rounding may do: a correct float64 implementation rounds each
operation at about 1e-16, and even sums over thousands of terms stay below 1e-13 of their size."""
FLOOR = 1e-11
"""Smallest bound, for outputs that the perturbation happens to leave alone."""
CEILING = 1e-6
"""Largest bound, whatever the conditioning."""


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


@torch.no_grad()
def perturbed(model: nn.Module, *, seed: int, elsewhere: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Change every weight by a relative `PERTURBATION`, in place; returns the old values for `load`.

    ``elsewhere``: see `snapshot`.
    """
    generator = torch.Generator().manual_seed(seed)
    old = snapshot(dict(model.named_parameters()), elsewhere)
    for parameter in model.parameters():
        for part, drawn in beside_noise(parameter, generator):
            part.mul_(drawn.mul(PERTURBATION).add_(1))
    return old


def bounded(sensitivity: float) -> float:
    """The bound that belongs to a measured sensitivity to `PERTURBATION`."""
    return min(max(sensitivity, FLOOR), CEILING)


def gradient_scales(gradients: Mapping[str, Tensor | None]) -> dict[str, float]:
    """Norms, but at least a millionth of the largest: some gradients are zero by mathematics (a bias before a norm)."""
    norms = {n: g.norm().item() for n, g in gradients.items() if g is not None}
    least = 1e-6 * max(norms.values(), default=0.0)
    return {n: max(v, least) for n, v in norms.items()}


def gradient_errors(got: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> dict[str, float]:
    """`relative` error of each gradient that is expected, by `gradient_scales`; one that is missing counts as zero."""
    errors = {}
    for name, scale in gradient_scales(expected).items():
        ours, theirs = got.get(name), expected[name]
        assert theirs is not None
        errors[name] = 1.0 if ours is None else relative(ours, theirs, scale)
    return errors


def expect_same_logits(bench: Bench, when: str, got: Tensor, expected: Tensor, bound: float, why: str = "") -> None:
    """Raise AssertionError where some sample's logits are off by more than ``bound`` (relative, float64).

    ``when`` begins the message; ``why`` ends it, as the likely cause.
    """
    error = rowwise(got, expected)
    assert error <= bound, (
        f"{bench.who}: {when} the logits are off by {error:.1e}; expected at most {bound:.1e} (relative, float64)"
        + (f": {why}" if why else "")
    )


PERIOD = 65_537
"""Drawn values before they repeat: a prime, so that the rows of a matrix don't line up."""


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal values of the shape and dtype of ``like``; beyond `PERIOD` of them they repeat."""
    drawn = _drawn(like, generator)
    if like.numel() > PERIOD:
        drawn = drawn.repeat(-(-like.numel() // PERIOD))[: like.numel()]
    return drawn.view(like.shape)


def beside_noise(tensor: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of ``tensor`` that make it up, each with the noise that `noise` would give there (broadcast over rows).

    What is done in place to the views is done to the tensor, without memory for as much noise again.
    """
    if not tensor.is_contiguous():
        yield tensor, noise(tensor, generator)
        return
    drawn, flat = _drawn(tensor, generator), tensor.view(-1)
    whole = flat.numel() // PERIOD * PERIOD
    if whole:
        yield flat[:whole].view(-1, PERIOD), drawn
    if whole < flat.numel():
        yield flat[whole:], drawn[: flat.numel() - whole]


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(min(like.numel(), PERIOD), generator=generator, dtype=torch.float32).to(like.dtype)
