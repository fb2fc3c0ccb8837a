"""That a recipe does what a plain loop does, step by step, and goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from harness.bench.bench import Bench
from suites.transfer.checks.applied_recipe import Plan, loud_step, some, train_step, uncounted
from suites.transfer.checks.backbones import CONVNET, HEADED, PLAIN, TORCHVISION_VIT, Backbone
from suites.transfer.checks.reference_loop import hold, twin_optimizer
from suites.transfer.checks.scheduler import by_steps

STEPS = 2
"""In each phase."""
RESUMED = 3
"""In each phase of a run that is interrupted: a schedule that is lost shows in the second step after it."""
SAME = 1e-7
"""Relative. Two float64 loops that group parameters differently round differently, by 1e-16 a step, which some ten
steps through ReLU and BatchNorm amplify a thousandfold; a rate, a statistic or a decay that is off shows at 1e-4."""
OTHER_SEED = 7
SIZES = (12, 6, 40)
"""Images in a batch, in turns: some faults depend on their number."""
LOUDNESS = 1e8
"""Of a loss whose gradients no clipping that is meant to act on ordinary ones leaves alone."""
GRADIENTS = 1e-5
"""Relative, of gradients at weights that are equal to `SAME` or, as a rule, to 1e-12; what is clipped at a norm of 1e6,
or lost of one of two batches, is off by a tenth and more."""


def check_trajectory(bench: Bench) -> None:
    """Two steps in each phase end where a hand-written loop of plain PyTorch ends.

    The loop trains a twin with the rates, decays and momentum that the recipe's groups declare, holds in eval mode what
    does not train, and does nothing else. Whatever the recipe does beside that (hooks on gradients, steps of its own,
    another forward pass, a scale that is declared and not applied) parts them. Between the steps the recipe's
    network is put in eval mode, as a loop that validates would. A last step adds up the gradients of two loud batches.
    """
    for backbone in (*PLAIN, HEADED):
        plan = Plan(bench, backbone)
        twin = backbone.model()
        optimizer: Optimizer | None = None
        last: Optimizer | None = None
        step = 0
        for _ in plan.phases():
            fresh = last is not None and plan.optimizer is not last and bench.architecture.name != "gradual_unfreezing"
            optimizer = twin_optimizer(plan, twin, None if fresh else optimizer)
            last = plan.optimizer
            for _ in range(STEPS):
                step += 1
                size = SIZES[step % len(SIZES)]
                plan.model.eval()
                plan.train(step, size)
                hold(twin)
                train_step(twin, optimizer, backbone.batch(step, size), plan.who)
        _assert_same(plan, dict(twin.state_dict()), f"after {step} steps", "a plain loop with the same groups")
        assert optimizer is not None
        _assert_same_gradients(plan, twin, optimizer, step)


def _assert_same_gradients(plan: Plan, twin: nn.Module, optimizer: Optimizer, step: int) -> None:
    """Gradients add up over two batches, and are in proportion to the loss, however large: they are nobody's to clip.

    They are read after the optimizer's step, before which a hook may act on them too; None where one takes them away.
    """
    hold(twin)
    plan.model.train()
    loud_step(plan.model, plan.optimizer, _in_one_place(plan, step), plan.who, loudness=LOUDNESS)
    loud_step(twin, optimizer, _in_one_place(plan, step), plan.who, loudness=LOUDNESS)
    own = dict(twin.named_parameters())
    pairs = {n: (p.grad, own[n].grad) for n, p in plan.given.named_parameters() if n in own}
    both = {n: (got, wanted) for n, (got, wanted) in pairs.items() if got is not None and wanted is not None}
    least = 1e-6 * max((float(wanted.norm()) for _, wanted in both.values()), default=0.0)
    errors = {n: float((got - wanted).norm()) / max(float(wanted.norm()), least) for n, (got, wanted) in both.items()}
    off = [n for n, error in errors.items() if not error <= GRADIENTS]
    assert not off, (
        f"{plan.who}: of two batches whose gradients add up, and whose losses are {LOUDNESS:.0e} times as large, the "
        f"gradient of {some(off)} differs from a plain loop's by {errors[off[0]]:.1e} (relative); expected at most "
        f"{GRADIENTS:.0e}: gradients are clipped, or cleared by the forward pass, or features are those of the first"
    )


def _in_one_place(plan: Plan, step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches, the second written over the first one's images, as loaders that reuse their memory do."""
    place = plan.backbone.batch(step)[0]
    for number in (1, 2):
        images, labels = plan.backbone.batch(step + number)
        yield place.copy_(images), labels


def check_resume(bench: Bench) -> None:
    """Interrupted within the second phase (or the only one) and resumed elsewhere, it ends where it would have ended.

    Saved are the network's state and the recipe's (``state_dict`` of what it returned where it has one, else of the
    optimizer and the scheduler); the other process starts from other weights. Once with a schedule and once without.
    What enters the next phase and has a ``state_dict`` of its own keeps the phase there; else the caller enters it.
    """
    cases: list[tuple[Backbone, dict[str, Any]]] = [(CONVNET, {"scheduler": by_steps}), (TORCHVISION_VIT, {})]
    for backbone, keywords in cases:
        whole = Plan(bench, backbone, **keywords)
        steps = [(phase, step) for phase in _train_all(whole) for step in range(RESUMED)]
        stop = min(RESUMED, len(steps) - RESUMED) + 1
        first = Plan(bench, backbone, **keywords)
        for number, (phase, _) in enumerate(steps[:stop]):
            _train(first.to_phase(phase), number)
        saved, kept = first.state(), first.saved()
        second = Plan(bench, backbone, seed=OTHER_SEED, **keywords)
        if not second.keeps_phase:
            second.to_phase(first.phase)
        second.given.load_state_dict(saved)
        second.restore(kept)
        second.phase = first.phase
        missing = sorted(first.trainable() ^ second.trainable())
        assert not missing, (
            f"{second.who}: resumed in phase {first.phase} from its own state, {some(missing)} "
            f"{'trains' if missing[0] in second.trainable() else 'is frozen'}, which it was not to; expected the phase "
            "in what its state_dict() saves"
        )
        for number, (phase, _) in enumerate(steps[stop:], start=stop):
            _train(second.to_phase(phase), number)
        _assert_same(second, whole.state(), f"resumed after {stop} of {len(steps)} steps", "an uninterrupted run")


def _train(plan: Plan, step: int) -> None:
    plan.train(step)
    plan.step_schedule()


def _train_all(plan: Plan) -> list[int]:
    """Train through all phases; their numbers."""
    numbers: list[int] = []
    for phase in plan.phases():
        for step in range(RESUMED):
            _train(plan, RESUMED * len(numbers) + step)
        numbers.append(phase)
    return numbers


def _assert_same(plan: Plan, expected: dict[str, torch.Tensor], when: str, what: str) -> None:
    got = plan.state()
    expected = {n: t for n, t in expected.items() if not uncounted(n)}
    gone = [n for n in expected if n not in got]
    assert not gone, f"{plan.who}: {some(gone)} is no longer part of the network; expected its parts to stay"
    errors = {
        n: float((got[n].double() - t.double()).norm()) / max(float(t.double().norm()), 1e-3)
        for n, t in expected.items()
    }
    off = [n for n, error in errors.items() if not error <= SAME]
    assert not off, (
        f"{plan.who}: {when} {len(off)} of {len(errors)} tensors differ from {what}: {some(off)} by "
        f"{errors[off[0]]:.1e} (relative); expected at most {SAME:.0e}"
    )


def check_state_kept(bench: Bench) -> None:
    """Entering a phase changes no weight and no statistic, and loses none of the optimizer's state of what trained."""
    for backbone in PLAIN:
        plan = Plan(bench, backbone)
        step = 0
        while True:
            plan.train(step)
            weights = plan.state()
            remembered = _memory(plan)
            if not plan.advance():
                break
            now = plan.state()
            moved = [n for n, t in weights.items() if not torch.equal(t, now[n])]
            assert not moved, (
                f"{plan.who}: entering phase {plan.phase} changes {some(moved)}; expected no weight to move"
            )
            after = _memory(plan)
            lost = [n for n, t in remembered.items() if n not in after or not torch.equal(t, after[n])]
            assert not lost, (
                f"{plan.who}: entering phase {plan.phase} loses the optimizer's state of {some(lost)}; expected it "
                "kept when a group is added"
            )
            step += 1


def _memory(plan: Plan) -> dict[str, torch.Tensor]:
    names = {id(p): n for n, p in plan.given.named_parameters()}
    return {
        f"{names[id(p)]} ({key})": value.clone()
        for p, state in plan.optimizer.state.items()
        for key, value in state.items()
        if id(p) in names and isinstance(value, torch.Tensor)
    }
