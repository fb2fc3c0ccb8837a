"""Second derivatives, which gradient penalties, sharpness-aware training and influence functions ask for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.noise import noise
from harness.numerics.float64_mode import Float64Mode
from harness.transplant import CEILING, cotangent, relative, transplant
from harness.workbench import Workbench


def expect_curvature(bench: Workbench) -> None:
    """Derivatives of the input's gradient along a direction equal the reference's, in eval mode and float64.

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
    least = 1e-6 * max(t.norm().item() for t in expected.values())
    for name, there in expected.items():
        if name not in named:
            continue
        error = relative(named[name], there, max(there.norm().item(), least))
        names = "the images" if name == "images" else ", ".join(grafted.alignment.subject_names(name)) or name
        assert error <= CEILING, (
            f"{bench.who}: differentiated twice, it differs from {grafted.title}: the derivative by {names} of the "
            f"input's gradient is off by {error:.1e}, expected at most {CEILING:.0e} (relative, float64): a custom "
            "backward pass uses what was computed in the forward pass without its graph; mark it once_differentiable "
            "or write it in differentiable operations"
        )


def _second(bench: Workbench, model: nn.Module, images: Tensor, direction: Tensor) -> dict[str, Tensor]:
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
