"""What a new network starts as, and that nothing but its weights and the images decides what it answers."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from harness.checks.initialisation import WIDEST
from harness.checks.saving import expect_strict
from harness.checks.side_effects import (
    expect_no_trace,
    expect_quiet_import,
    expect_seeds_to_hold,
    expect_settings,
)
from harness.errors import SubjectError, first_line
from harness.process.global_state import draw, generators, restore, settings
from suites.multitask.checks.network import GUARD, WIDTHS, live, network, outputs, relative, takes_classes

OTHER_CLASSES = 7


def check_instances(bench: Bench) -> None:
    """Two networks built after different seeds start differently, with finite weights of a customary size.

    They leave the caller's seed and the settings of the process alone; with ``num_classes=7`` the class logits have
    seven columns.
    """
    expect_quiet_import(bench.subject)
    before, built, drawn = settings(), [], []
    try:
        for seed in (1, 2):
            with generators(bench.seed + seed):
                built.append(network(bench, seeding=False))
                drawn.append(draw())
            expect_settings(bench.who, before, "building it")
    finally:
        restore(before)
    expect_seeds_to_hold(bench.who, drawn, "building it")
    first, second = built
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert bool(torch.isfinite(one).all()), f"{bench.who}: freshly built, {name} is not finite"
        if one.ndim < 2 or not bool(one.any()):
            continue
        assert not torch.equal(one, other), f"{bench.who}: {name} starts with the same values under different seeds"
        widest = WIDEST * math.sqrt(2 / min(one[0].numel(), one.numel() // one.shape[1]))
        spread = float(one.detach().std())
        assert spread <= widest, (
            f"{bench.who}: freshly built, {name} has a standard deviation of {spread:.2g}; expected at most "
            f"{widest:.2g}, {WIDEST:g} times what He initialisation gives it"
        )
    if takes_classes(bench):
        with torch.device("meta"):
            model = network(bench, OTHER_CLASSES).eval()
        outputs(bench, model, torch.empty(2, 3, 64, 64, device="meta"), {**WIDTHS, "classes": OTHER_CLASSES})


def check_task_memory(bench: Bench) -> None:
    """A second instance with the first one's ``state_dict`` gives the same outputs, and so does the first one after
    other images, though they lie in the same memory. A state of another network is refused. A pass leaves nothing."""
    model, second = live(bench), network(bench).double().eval()
    one, two = bench.images(2, 64, seed=1), bench.images(2, 64, seed=2)
    expected = {images: _answers(bench, model, given) for images, given in (("first", one), ("second", two))}
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        second.load_state_dict(saved)
    except RuntimeError as error:
        raise AssertionError(
            f"{bench.who}: a second instance refuses the first one's state_dict: {first_line(error)}"
        ) from error
    expect_strict(bench, second, saved)
    for task, there in _answers(bench, second, one).items():
        off = relative(there, expected["first"][task])
        assert off < GUARD, (
            f"{bench.who}: a second instance with the same state_dict gives {task} off by {off:.1e}; expected the "
            "same: something that acts on it is neither a parameter nor a persistent buffer"
        )
    rewritten = one.clone()
    _answers(bench, second, rewritten)
    rewritten.copy_(two)
    for task, there in _answers(bench, second, rewritten).items():
        off = relative(there, expected["second"][task])
        assert off < GUARD, (
            f"{bench.who}: after the values of its input were overwritten, {task} is off by {off:.1e}; expected that "
            "of the new images: features are cached"
        )
    _expect_nothing_left(bench, second.train(), one)


def _expect_nothing_left(bench: Bench, model: nn.Module, images: Tensor) -> None:
    """After a pass in train mode: gradients that are there stay, no tensor of the graph is kept, and the process is as
    it was. Images of NaN give no numbers."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    expect_no_trace(bench.who, lambda: outputs(bench, model, images), "a pass in train mode")
    gone = [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad == 1).all())]
    assert not gone, (
        f"{bench.who}: a pass in train mode changes or clears the gradients of {', '.join(gone[:3])}; expected them to "
        "stay: micro-batches add up"
    )
    model.zero_grad(set_to_none=True)
    try:
        copy.deepcopy(model)
    except Exception as error:
        raise AssertionError(
            f"{bench.who}: after a pass in train mode copy.deepcopy raises {type(error).__name__}: "
            f"{first_line(error)}; expected a copy (a tensor of the graph is kept on a module?)"
        ) from error
    try:
        answers = _answers(bench, model.eval(), torch.full_like(images[:1], torch.nan))
    except SubjectError:
        return
    for task, answer in answers.items():
        assert not bool(answer.isfinite().all()), (
            f"{bench.who}: {task} of an image of NaN is finite; expected NaN, or an error: what is wrong must show"
        )


@torch.no_grad()
def _answers(bench: Bench, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return {task: answer.clone() for task, answer in outputs(bench, model, images).items()}
