"""Train mode and eval mode: switching between them loses nothing, and frozen norms are used as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.bench.passes import float64_logits
from harness.bench.tolerances import expect_same_logits
from harness.bench.weight_transplant import rounding_bound, transplant
from harness.numerics.controlled_rng import ControlledRng
from harness.numerics.float64_mode import Float64Mode


def check_mode_switch(bench: Bench) -> None:
    """``eval()`` leaves no trace: parameters and buffers stay, eval logits after ``train()`` and ``eval()`` are as
    before, and what ran under ``inference_mode`` can still be trained.
    """
    model = transplant(bench).subject
    images = bench.images(4, bench.small_side(), seed=28)
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    expected = float64_logits(bench, model, images)
    moved = [n for n, b in model.named_buffers() if not torch.equal(b, buffers[n])]
    assert not moved, f"{bench.who}: a forward pass in eval mode changes {', '.join(moved[:5])}"
    before = dict(model.named_parameters())
    _expect_training_restored(bench)
    _expect_norms_to_freeze(bench)
    _expect_frozen_norms_to_be_used(bench, model, images)
    model.train()
    model.eval()
    got = float64_logits(bench, model, images)
    model.train()
    other = [n for n, p in model.named_parameters() if before.get(n) is not p]
    model.eval()
    assert not other, (
        f"{bench.who}: train() and eval() put new parameters in the place of {', '.join(other[:5])}; an optimizer made "
        "before goes on with the old ones"
    )
    expect_same_logits(bench, "after train() and eval()", got, expected, rounding_bound(bench))
    with torch.enable_grad(), Float64Mode():
        tracked = bench.logits(model, images).detach()
    expect_same_logits(bench, "with gradients recorded", tracked, expected, rounding_bound(bench))
    with torch.no_grad():  # as it is, since inference mode hides from the harness what is cast to float32 on purpose
        plain = bench.logits(model, images).clone()
    with torch.inference_mode():
        inferred = bench.logits(model, images).clone()
    expect_same_logits(bench, "under inference_mode", inferred, plain, rounding_bound(bench))
    _expect_trainable_after_inference(bench, images.float())


def _expect_training_restored(bench: Bench) -> None:
    """A new network that is evaluated once trains as before: the same parameters learn, and the same is drawn."""
    model = bench.small_copy().train()
    images = bench.images(4, bench.small_side(), seed=33).float()
    seen = []
    for _ in range(2):
        with torch.no_grad(), ControlledRng(batch=len(images)) as randomness:
            bench.logits(model, images)
        seen.append(([n for n, p in model.named_parameters() if p.requires_grad], randomness.draws))
        model.eval()
        model.train()
    (learning, draws), (still, later) = seen
    frozen = [n for n in learning if n not in still]
    assert not frozen, f"{bench.who}: after eval() and train() {', '.join(frozen[:5])} no longer trains"
    assert draws == later, (
        f"{bench.who}: after eval() and train() a pass in train mode draws {len(later)} times, before {len(draws)}: "
        "dropout or stochastic depth is switched off, or changed, for good"
    )
    model.requires_grad_(False)
    model.eval()
    model.train()
    thawed = [n for n, p in model.named_parameters() if p.requires_grad]
    assert not thawed, (
        f"{bench.who}: eval() and train() make {', '.join(thawed[:5])} trainable, which the caller had frozen by "
        "requires_grad_(False); expected a mode to leave that alone"
    )


def _expect_norms_to_freeze(bench: Bench) -> None:
    """BatchNorms that are put into eval mode, as fine-tuning does, keep their statistics while the rest trains."""
    model = bench.small_copy().train()
    kind = nn.modules.batchnorm._BatchNorm
    norms = {n: m for n, m in model.named_modules() if isinstance(m, kind) and m is not model}
    before = {name: [buffer.clone() for buffer in norm.eval().buffers()] for name, norm in norms.items()}
    if not norms:
        return
    with torch.no_grad():
        bench.logits(model, bench.images(4, bench.small_side(), seed=34).float())
    moved = [n for n, kept in before.items() if not all(map(torch.equal, kept, norms[n].buffers()))]
    assert not moved, (
        f"{bench.who}: with its BatchNorms in eval mode, as fine-tuning freezes them, and the rest in train mode a "
        f"pass moves the statistics of {', '.join(moved[:5])}; expected them to follow their own mode"
    )


def _expect_frozen_norms_to_be_used(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """Where every norm is a BatchNorm in eval mode and nothing is drawn, train mode computes what eval mode does."""
    made = transplant(bench)
    kind = nn.modules.batchnorm._BatchNorm
    norms = [m for m in model.modules() if isinstance(m, kind) and m is not model]
    if not norms or len(norms) != sum(isinstance(m, kind) for m in made.grafted[0].model.modules()):
        return
    expected = float64_logits(bench, model, images)
    model.train()
    try:
        for norm in norms:
            norm.eval()
        with torch.no_grad(), Float64Mode(), ControlledRng(batch=len(images)) as randomness:
            got = bench.logits(model, images).clone()
    finally:
        model.eval()
    if not randomness.draws:
        expect_same_logits(
            bench, "in train mode with every BatchNorm in eval mode", got, expected, rounding_bound(bench)
        )


def _expect_trainable_after_inference(bench: Bench, images: Tensor) -> None:
    """A model that validates before it trains: nothing made under ``inference_mode`` may be kept for training."""
    model = bench.small_copy().eval()
    with torch.inference_mode():
        bench.logits(model, images)
    model.train()
    try:
        bench.backward(bench.logits(model, images).sum())
    except AssertionError as error:
        said = " (after a pass under inference_mode: a tensor made there is kept)" if "nference" in str(error) else ""
        raise AssertionError(f"{error}{said}") from error
