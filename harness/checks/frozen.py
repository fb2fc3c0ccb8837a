"""Gradients of what learns where the rest is frozen, as in fine-tuning."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from harness.numerics.controlled_rng import ControlledRng
from harness.numerics.float64_mode import Float64Mode
from harness.numerics.residual_joins import nodes
from harness.transplant import CEILING, cotangent, put_back, relative, transplant
from harness.workbench import Workbench


def expect_the_rest_to_learn(bench: Workbench) -> None:
    """What learns gets the gradient that it has where everything learns, whatever else is frozen.

    In train mode, on images that need no gradient, as in a training loop. Vectors alone (norms and biases), matrices
    alone, the later half, the classifier: each is a usual way to fine-tune. The operations are the same each time, so
    the bound is far above rounding. That reentrant checkpoints give what stands behind frozen layers no gradient is
    torch's own, documented limit (`torch.utils.checkpoint`), and no fault of the network.
    """
    made = transplant(bench)
    images = bench.images(2, made.side, seed=66)
    learning = {n: p for n, p in made.subject.named_parameters() if p.requires_grad}
    grafted = made.grafted[0]
    last = [n for n, _ in grafted.model.named_parameters()][-2:]
    parts: dict[str, Collection[str]] = {
        "norms and biases": [n for n, p in learning.items() if p.ndim <= 1],
        "weight matrices": [n for n, p in learning.items() if p.ndim > 1],
        "the later half of the parameters": list(learning)[len(learning) // 2 :],
        "the classifier": {s for n in last for s in grafted.alignment.subject_names(n) if s in learning},
    }
    together, reentrant = _gradients(bench, made.subject, images)
    least = 1e-6 * max((g.norm().item() for g in together.values()), default=0.0)
    for what, names in parts.items():
        if not names:
            continue
        for name, parameter in learning.items():
            parameter.requires_grad_(name in names)
        try:
            alone, _ = _gradients(bench, made.subject, images)
        finally:
            for parameter in learning.values():
                parameter.requires_grad_(True)
        for name in names:
            if name not in together or (reentrant and name not in alone):
                continue
            gradient = together[name]
            error = relative(alone[name], gradient, max(gradient.norm().item(), least)) if name in alone else 1.0
            assert error <= CEILING, (
                f"{bench.who}: in train mode, where {what} alone learn and the rest is frozen, the gradient of {name} "
                f"is {f'off by {error:.1e}' if name in alone else 'missing'}; expected what it is where everything "
                f"learns, to {CEILING:.0e} (relative, float64): a backward pass skips what it should compute"
            )


def _gradients(bench: Workbench, model: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], bool]:
    """Of one training step's loss by each parameter that learns; none where the logits have no graph. And whether
    parts are checkpointed in the reentrant way."""
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    modes = [(module, module.training) for module in model.modules()]
    try:
        with Float64Mode(), ControlledRng(batch=len(images)):
            logits = bench.logits(model.train(), images)
            model.zero_grad(set_to_none=True)
            graph = nodes(logits.grad_fn) if logits.grad_fn is not None else ()
            reentrant = any("CheckpointFunction" in node.name() for node in graph)
            if logits.requires_grad:
                bench.backward(logits, cotangent(bench, logits))
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, reentrant
    finally:
        for module, training in modes:
            module.training = training
        put_back(model, buffers)
        for parameter in model.parameters():
            parameter.grad = None
