"""What a recipe holds still, and in which order it lets go."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from suites.transfer.checks.applied_recipe import CONTRACT, Plan, some
from suites.transfer.checks.backbones import CONVNET, DEEP, DROPOUT, PLAIN, STOCHASTIC, TIMM_RESNET, Backbone


def check_frozen(bench: Bench) -> None:
    """What does not train in a phase stays bit for bit: parameters, statistics and other buffers; and has no gradient.

    Through two steps in each phase, in train mode, with momentum and weight decay, on batches whose brightness changes.
    What trains is the recipe's to say, but for `feature_extraction`, where it is the head.
    """
    for backbone in (*PLAIN, DROPOUT, STOCHASTIC):
        plan = Plan(bench, backbone)
        for phase in plan.phases():
            held = _held(plan) if bench.architecture.name != "feature_extraction" else _outside_head(plan)
            before = plan.state()
            for step in (1, 2):
                plan.model.eval()
                plan.train(2 * phase + step)
            after = plan.state()
            moved = [n for n in held if not torch.equal(after[n], before[n])]
            parameters = dict(plan.given.named_parameters())
            statistics = [n for n in moved if n not in parameters]
            where = f"{plan.who}: in phase {phase}" if phase else plan.who
            assert not statistics, (
                f"{where}: {len(statistics)} buffers of frozen layers change in train mode: {some(statistics)}; "
                "expected frozen layers to stay in eval mode through every train()"
            )
            assert not moved, (
                f"{where}: {len(moved)} frozen parameters change within two steps: {some(moved)}; expected them bit "
                "for bit as they were, weight decay and momentum included"
            )
            graded = [n for n in held if n in parameters and parameters[n].grad is not None]
            assert not graded, f"{where}: frozen parameters receive gradients: {some(graded)}; expected none"


def _outside_head(plan: Plan) -> list[str]:
    return [n for n in plan.given.state_dict() if not plan.backbone.in_head(n)]


def _held(plan: Plan) -> list[str]:
    """Parameters that do not train, and buffers of modules whose parameters all do not."""
    names = [n for n, p in plan.given.named_parameters() if not p.requires_grad]
    for prefix, module in plan.given.named_modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            names += [f"{prefix}.{n}" for n, _ in module.named_buffers(recurse=False)]
    return names


def check_frozen_features(bench: Bench) -> None:
    """While only the head trains, what enters it is the same in train mode as in eval mode, and carries no graph.

    BatchNorm would use the batch's statistics, and a graph would keep the backbone's activations. Dropout and
    stochastic depth have to be off as well where the features are all that is left of the backbone; other recipes may
    drop there while it is frozen.
    """
    random = (DROPOUT, STOCHASTIC) if bench.architecture.name == "feature_extraction" else ()
    for backbone in (CONVNET, TIMM_RESNET, *random):
        plan = Plan(bench, backbone)
        if bench.architecture.name == "gradual_unfreezing" and any(not backbone.in_head(n) for n in plan.trainable()):
            continue
        images, _ = backbone.batch(1)
        plan.model.eval()
        expected = _features(plan, images)
        plan.model.train()
        got = _features(plan, images)
        worst = float((got - expected).detach().abs().max())
        assert worst == 0.0, (
            f"{plan.who}: in train mode the features that enter the head differ from eval mode by {worst:.1e}; "
            "expected none: BatchNorm's statistics of the batch, dropout or stochastic depth act in the frozen backbone"
        )
        assert not got.requires_grad, (
            f"{plan.who}: the features that enter the head carry a graph of the backbone; expected none, since nothing "
            "in it trains"
        )


def _features(plan: Plan, images: Tensor) -> Tensor:
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    head = plan.given.get_submodule(plan.backbone.head)
    handle = head.register_forward_pre_hook(keep)
    try:
        plan.model(images)
    finally:
        handle.remove()
    assert seen, f"{plan.who}: the head is not called"
    return seen[0]


def check_phases(bench: Bench) -> None:
    """From the head down: what trains only grows, no layer trains before all that follow it, all train at last."""
    for backbone in (*PLAIN, DROPOUT, DEEP):
        plan = Plan(bench, backbone)
        assert plan.has_phases, f"{plan.who}: has no phases; {CONTRACT}"
        names = [n for n, _ in plan.given.named_parameters()]
        sets = [plan.trainable() for _ in plan.phases()]
        first = sets[0]
        head = {n for n in names if backbone.in_head(n)}
        assert head <= first, f"{plan.who}: the first phase leaves {some(sorted(head - first))} of the head frozen"
        only_head = bench.architecture.name == "lp_ft"
        early = [n for n in first if (n not in head if only_head else backbone.layer(n) == 0)]
        assert not early, f"{plan.who}: the first phase already trains {some(sorted(early))}; expected the head first"
        for number, (before, after) in enumerate(pairwise(sets), start=1):
            lost = sorted(before - after)
            assert not lost, f"{plan.who}: phase {number} freezes {some(lost)} again; expected what trains only to grow"
        for number, trained in enumerate(sets):
            _assert_from_the_head_down(plan, backbone, names, trained, number)
        missing = [n for n in names if n not in sets[-1]]
        assert not missing, f"{plan.who}: {some(missing)} never trains in {len(sets)} phases; expected all to, at last"
        fewest = 2 if only_head else 3
        assert len(sets) >= fewest, f"{plan.who}: has {len(sets)} phases; expected at least {fewest}"


def _assert_from_the_head_down(
    plan: Plan, backbone: Backbone, names: list[str], trained: set[str], number: int
) -> None:
    layers = {n: backbone.layer(n) for n in names}
    earliest = min((n for n in layers if n in trained), key=lambda n: layers[n])
    skipped = [n for n in layers if n not in trained and layers[n] > layers[earliest]]
    assert not skipped, (
        f"{plan.who}: phase {number} trains {earliest} while the later {some(skipped)} is frozen; expected layers to "
        "be unfrozen from the head down"
    )
