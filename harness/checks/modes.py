"""Train mode and eval mode: switching between them loses nothing, and frozen norms are used as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.bench.bench import Bench
from harness.bench.passes import float64_logits
from harness.bench.tolerances import expect_same_logits
from harness.bench.weight_transplant import rounding_bound, transplant
from harness.errors import some_of
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
    assert not moved, f"{bench.who}: a forward pass in eval mode changes {some_of(moved)}"
    before = dict(model.named_parameters())
    expect_training_restored(bench)
    expect_frozen_statistics_kept(bench)
    expect_frozen_statistics_used(bench, model, images)
    model.train()
    model.eval()
    got = float64_logits(bench, model, images)
    model.train()
    other = [n for n, p in model.named_parameters() if before.get(n) is not p]
    model.eval()
    assert not other, (
        f"{bench.who}: train() and eval() put new parameters in the place of {some_of(other)}; an optimizer made "
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
    expect_trainable_after_inference(bench, images.float())


def expect_training_restored(bench: Bench) -> None:
    """Raise AssertionError where eval() and train() change which parameters are trainable, or what is drawn."""
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
    assert not frozen, f"{bench.who}: after eval() and train() {some_of(frozen)} no longer trains"
    assert draws == later, (
        f"{bench.who}: after eval() and train() a pass in train mode draws {len(later)} times, before {len(draws)}: "
        "dropout or stochastic depth is switched off, or changed, for good"
    )
    model.requires_grad_(False)
    model.eval()
    model.train()
    thawed = [n for n, p in model.named_parameters() if p.requires_grad]
    assert not thawed, (
        f"{bench.who}: eval() and train() make {some_of(thawed)} trainable, which the caller had frozen by "
        "requires_grad_(False); expected a mode to leave that alone"
    )


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms inside ``model``, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m is not model}


def expect_frozen_statistics_kept(bench: Bench) -> None:
    """Raise AssertionError where a BatchNorm in eval mode, as in fine-tuning, updates its statistics in training."""
    model = bench.small_copy().train()
    norms = batch_norms(model)
    before = {name: [buffer.clone() for buffer in norm.eval().buffers()] for name, norm in norms.items()}
    if not norms:
        return
    with torch.no_grad():
        bench.logits(model, bench.images(4, bench.small_side(), seed=34).float())
    moved = [n for n, kept in before.items() if not all(map(torch.equal, kept, norms[n].buffers()))]
    assert not moved, (
        f"{bench.who}: with its BatchNorms in eval mode, as fine-tuning freezes them, and the rest in train mode a "
        f"pass moves the statistics of {some_of(moved)}; expected them to follow their own mode"
    )


def expect_frozen_statistics_used(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """Raise AssertionError where train mode with every BatchNorm in eval mode differs from eval mode.

    Applies where nothing is drawn, and where the subject's batch norms are as many as the reference's.
    """
    norms = batch_norms(model)
    if not norms or len(norms) != len(batch_norms(transplant(bench).grafted[0].model)):
        return
    expected = float64_logits(bench, model, images)
    model.train()
    try:
        for norm in norms.values():
            norm.eval()
        with torch.no_grad(), Float64Mode(), ControlledRng(batch=len(images)) as randomness:
            got = bench.logits(model, images).clone()
    finally:
        model.eval()
    if not randomness.draws:
        expect_same_logits(
            bench, "in train mode with every BatchNorm in eval mode", got, expected, rounding_bound(bench)
        )


def expect_trainable_after_inference(bench: Bench, images: Tensor) -> None:
    """Raise AssertionError where a model that ran under ``inference_mode`` can't be trained afterwards."""
    model = bench.small_copy().eval()
    with torch.inference_mode():
        bench.logits(model, images)
    model.train()
    try:
        bench.backward(bench.logits(model, images).sum())
    except AssertionError as error:
        said = " (after a pass under inference_mode: a tensor made there is kept)" if "nference" in str(error) else ""
        raise AssertionError(f"{error}{said}") from error
