"""That train and eval mode of a network in training are the network's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench, seeded
from suites.transfer.checks.applied_recipe import Plan, some, uncounted
from suites.transfer.checks.backbones import DROPOUT, PLAIN

OTHER_SEED = 7
SAME = 1e-7
"""Relative. The same sums in float64 in another order (a norm folded, samples one by one) differ by 1e-15 or so."""


def check_evaluates(bench: Bench) -> None:
    """After ``eval()`` the logits are those of a fresh network with the same weights, asked twice and one by one.

    Before training and after a step in each phase, always for the same images, as a validation set is asked.
    """
    for backbone in (*PLAIN, DROPOUT):
        plan = Plan(bench, backbone)
        fresh = backbone.model(OTHER_SEED)
        images, _ = backbone.batch(0)
        _assert_evaluates(plan, fresh, images, "before training")
        for phase in plan.phases():
            plan.train(phase + 1)
            _assert_evaluates(plan, fresh, images, f"after a step in phase {phase}")


def _assert_evaluates(plan: Plan, fresh: nn.Module, images: Tensor, when: str) -> None:
    _load(plan, fresh)
    with torch.no_grad():
        expected = fresh.eval()(images)
    plan.model.eval()
    answers = {
        "": plan.logits(images),
        " when asked again": plan.logits(images),
        " one image at a time": torch.cat([plan.logits(image) for image in images.split(1)]),
    }
    for how, got in answers.items():
        error = _relative(got, expected)
        assert error <= SAME, (
            f"{plan.who}: {when}, in eval mode{how}, the logits differ from a fresh network's with the same weights by "
            f"{error:.1e} (relative); expected at most {SAME:.0e}: eval() does not reach every part, or evaluation is "
            "another one"
        )


def check_dropout(bench: Bench) -> None:
    """Once everything trains, train mode drops what the network drops: from one seed, a fresh network's logits."""
    plan = Plan(bench, DROPOUT)
    for phase in plan.phases():
        plan.train(phase)
    fresh = DROPOUT.model(OTHER_SEED)
    _load(plan, fresh)
    images, _ = DROPOUT.batch(0)
    plan.model.train()
    with torch.no_grad(), seeded(1):
        expected = fresh.train()(images)
    with seeded(1):
        error = _relative(plan.logits(images), expected)
    with seeded(2):
        steady = _relative(plan.logits(images), expected) == error
    assert error <= SAME, (
        f"{plan.who}: in the last phase, in train mode, the logits differ from a fresh network's with the same weights "
        f"and draws by {error:.1e} (relative); expected at most {SAME:.0e}: "
        + ("dropout does not act" if steady else "dropout is another one")
    )


def _load(plan: Plan, fresh: nn.Module) -> None:
    missing = [n for n in fresh.load_state_dict(plan.state(), strict=False).missing_keys if not uncounted(n)]
    assert not missing, f"{plan.who}: {some(missing)} is no longer part of the network; expected its parts to stay"


def _relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())
