"""Which parameters a recipe trains, how fast, and with how much weight decay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch

from harness.bench.bench import Bench
from suites.transfer.checks.applied_recipe import LR, MOMENTUM, WEIGHT_DECAY, Plan, momentum_sgd, some
from suites.transfer.checks.backbones import CONVNET, DEEP, HEADED, PLAIN, STOCHASTIC, TIED, TORCHVISION_VIT
from suites.transfer.checks.effective_rates import decays, rates

DEFAULT_DECAY = 0.03
HEAD_MATRIX = "fc.weight"
"""Of `CONVNET`. Earlier layers may have less weight decay, as they have lower rates."""
EQUAL = 1 + 1e-6
"""Two measured rates are the same up to this factor: they are read off a float64 step, where rounding is 1e-16."""
SPARE_VECTORS = ("two_learning_rates", "gradual_unfreezing", "layerwise_decay")
"""Recipes that set rates by group, and therefore weight decay too."""


def check_groups(bench: Bench) -> None:
    """In every phase each trainable parameter is in exactly one group, told by identity, not by value or name.

    Recipes that train everything leave nothing frozen in their last phase; `feature_extraction` trains the head alone.
    """
    for backbone in (*PLAIN, TIED, STOCHASTIC, HEADED):
        plan = Plan(bench, backbone)
        for phase in plan.phases():
            listed = [p for group in plan.optimizer.param_groups for p in group["params"]]
            counts = Counter(id(p) for p in listed)
            trained = {n: p for n, p in plan.given.named_parameters() if p.requires_grad}
            missing = [n for n, p in trained.items() if not counts[id(p)]]
            twice = [n for n, p in trained.items() if counts[id(p)] > 1]
            where = f"{plan.who}, in phase {phase}"
            assert not missing, (
                f"{where}: {len(missing)} trainable parameters are in no group of the optimizer: {some(missing)}; "
                "expected each in exactly one"
            )
            assert not twice, f"{where}: {some(twice)} in more than one group of the optimizer; expected exactly one"
            known = {id(p) for p in plan.model.parameters()} | {id(p) for p in plan.given.parameters()}
            strangers = sum(id(p) not in known for p in listed)
            assert not strangers, (
                f"{where}: the optimizer holds {strangers} tensors that are no parameters of the network, so that "
                "their steps are lost; expected the network's own"
            )
        names = [n for n, _ in plan.given.named_parameters()]
        expected = {n for n in names if backbone.in_head(n)}
        if bench.architecture.name != "feature_extraction":
            expected = set(names)
        got = plan.trainable()
        assert got >= expected, (
            f"{plan.who}: {some(sorted(expected - got))} does not train in the last phase; expected "
            f"{'the head' if len(expected) < len(names) else 'every parameter'} to"
        )
        assert got <= expected, f"{plan.who}: {some(sorted(got - expected))} trains; expected the head alone"
    _assert_same_order(bench)


def _assert_same_order(bench: Bench) -> None:
    """Two applications list the parameters in the same order, by which an optimizer's state is saved and loaded.

    Sets of parameters are ordered by where these lie in memory: here some forty, of which no two networks share one.
    """
    first, second = (Plan(bench, TORCHVISION_VIT, seed=seed) for seed in (0, 1))  # both are alive at once
    for phase, _ in zip(first.phases(), second.phases(), strict=False):
        one, other = (_order(plan) for plan in (first, second))
        off = [(a, b) for a, b in zip(one, other, strict=True) if a != b] if len(one) == len(other) else [(one, other)]
        assert not off, (
            f"{first.who}: in phase {phase} the optimizer of one network lists {off[0][0]} where that of another lists "
            f"{off[0][1]}; expected the same order each time (a set of parameters has none), or a state that is loaded "
            "goes to the wrong ones"
        )


def _order(plan: Plan) -> list[str]:
    names = {id(p): n for n, p in plan.given.named_parameters()}
    return [names.get(id(p), "a stranger") for group in plan.optimizer.param_groups for p in group["params"]]


def check_learns(bench: Bench) -> None:
    """In every phase one step of a plain loop moves every trainable parameter, the head in proportion to ``lr``, and is
    taken by the ``optimizer`` that was asked for."""
    for backbone in (*PLAIN, TIED):
        plan = Plan(bench, backbone)
        for phase in plan.phases():
            before = plan.state()
            trained = plan.trainable()
            plan.train(phase)
            after = plan.state()
            still = [n for n in before if n in trained and torch.equal(before[n], after[n])]
            assert not still, (
                f"{plan.who}: in phase {phase} a step leaves {len(still)} of {len(trained)} trainable parameters as "
                f"they were: {some(still)}; expected every one to move"
            )
            assert trained, f"{plan.who}: in phase {phase} nothing trains"
    _assert_rate_acts(bench)
    _assert_optimizer_acts(bench)


class Counted(torch.optim.SGD):
    """Counts the steps of all its instances, also of those that another optimizer wraps."""

    taken = 0

    def step(self, closure: Any = None) -> Any:
        """A step of SGD."""
        Counted.taken += 1
        return super().step(closure)


def counted_sgd(groups: Any, **keywords: Any) -> Counted:
    """As `momentum_sgd`."""
    return Counted(groups, **{"lr": LR, "momentum": MOMENTUM, **keywords})


def _assert_optimizer_acts(bench: Bench) -> None:
    plan = Plan(bench, CONVNET, optimizer=counted_sgd)
    if "optimizer" not in plan.keywords:
        return
    for phase in plan.phases():
        before = Counted.taken
        plan.train(phase)
        assert Counted.taken > before, (
            f"{plan.who}: in phase {phase} a step is taken by {type(plan.optimizer).__name__}, not by what the given "
            "optimizer factory makes: the argument does not act"
        )


def _assert_rate_acts(bench: Bench) -> None:
    """The head's rate is in proportion to ``lr``, where the recipe takes it."""
    asked, quarter = Plan(bench, CONVNET), Plan(bench, CONVNET, lr=LR / 4)
    if "lr" not in asked.keywords:
        return
    fast, slow = rates(asked), rates(quarter)
    off = [n for n in fast if CONVNET.in_head(n) and not fast[n] / (4 * EQUAL) <= slow[n] <= fast[n] / 4 * EQUAL]
    assert not off, (
        f"{asked.who}: with lr={LR} a step moves {off[0]} by {fast[off[0]]:.3g}, with lr={LR / 4} by "
        f"{slow[off[0]]:.3g}; expected a quarter: the rate that is asked for does not act"
    )


def check_rates(bench: Bench) -> None:
    """How far one step moves each parameter for the same gradient, in every phase: never farther in an earlier layer.

    In the last phase also: `full_fine_tuning` moves all alike, and `lp_ft` may; for the others the backbone moves less
    than the head, `gradual_unfreezing` has at least three rates, and `layerwise_decay` another one for each layer.
    """
    name = bench.architecture.name
    # What is inside another module may be one layer to a recipe that goes by a network's own children.
    nested = (STOCHASTIC,) if name == "two_learning_rates" else ()
    for backbone in (*PLAIN, DEEP, *nested):
        plan = Plan(bench, backbone)
        for phase in plan.phases():
            measured = rates(plan)
            still = [n for n, rate in measured.items() if not rate > 0]
            assert not still, (
                f"{plan.who}: in phase {phase} a step moves {some(still)} by nothing; expected a rate above 0"
            )
            placed = {n: backbone.layer(n) for n in measured}
            ordered = sorted(placed, key=lambda n: (placed[n], measured[n]))
            fastest = ""
            for parameter in ordered:
                if fastest and placed[fastest] < placed[parameter]:
                    assert measured[fastest] <= measured[parameter] * EQUAL, (
                        f"{plan.who}: in phase {phase} a step moves {fastest} by {measured[fastest]:.3g} and the later "
                        f"{parameter} by {measured[parameter]:.3g} for the same gradient; expected no earlier "
                        "layer to learn faster"
                    )
                if not fastest or measured[parameter] > measured[fastest]:
                    fastest = parameter
        if name == "layerwise_decay":
            _expect_one_rate_in_a_module(plan, measured)
        by_layer = {placed[n]: measured[n] for n in placed}
        spread = _distinct(list(measured.values()))
        slowest, last = min(measured.values()), max(by_layer)
        if name == "full_fine_tuning":
            assert spread == 1, f"{plan.who}: {spread} different rates, from {slowest:.3g} on; expected one"
        if name in ("full_fine_tuning", "lp_ft"):
            continue
        below = by_layer.get(last - 1, 0.0)
        head_slower = name != "gradual_unfreezing" and not below * EQUAL < by_layer[last]
        assert not head_slower, (
            f"{plan.who}: a step moves the last layer of the backbone by {below:.3g} and the head by "
            f"{by_layer[last]:.3g} for the same gradient; expected the backbone to learn slower"
        )
        layers = len(backbone.layers) if backbone in PLAIN else 3  # many blocks may be taken together
        fewest = {"gradual_unfreezing": 3, "layerwise_decay": layers}.get(name, 2)
        assert spread >= fewest, (
            f"{plan.who}: one step moves parameters at {spread} different rates, from {slowest:.3g} "
            f"to {by_layer[last]:.3g}; expected at least {fewest}"
        )


def _expect_one_rate_in_a_module(plan: Plan, measured: Mapping[str, float]) -> None:
    """A weight and its bias are one layer. What the network itself holds may belong to several."""
    modules: dict[str, list[str]] = {}
    for name in measured:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    modules.pop("", None)
    for names in modules.values():
        moved = [measured[n] for n in names]
        assert _distinct(moved) == 1, (
            f"{plan.who}: for the same gradient a step moves {some(names)} by {min(moved):.3g} to {max(moved):.3g}; "
            "expected one rate for what is one layer: rates decay by layer, not by parameter"
        )


def _distinct(values: list[float]) -> int:
    ordered = sorted(values)
    return 1 + sum(b > a * EQUAL for a, b in pairwise(ordered))


def decaying_sgd(groups: Any, **keywords: Any) -> torch.optim.Optimizer:
    """As `momentum_sgd`, and with weight decay of its own where a group says nothing, as AdamW has."""
    return momentum_sgd(groups, **{"weight_decay": DEFAULT_DECAY, **keywords})


def check_decay_groups(bench: Bench) -> None:
    """With weight decay, a gradient of zero shrinks the matrices and filters, and leaves norms and biases alone.

    What is neither (class token, position embedding, layer scale) may do either; and so may norms and biases in recipes
    that need no groups: torch's own optimizers decay all that they are given. The optimizer has a default weight decay,
    as AdamW does: what is to be left alone needs a group that says so. Of the optimizer that was given, which is SGD, a
    quarter of the weight decay shrinks by a quarter, and none by nothing.
    """
    for backbone in (CONVNET, *PLAIN[1:]):
        plan = Plan(bench, backbone, optimizer=decaying_sgd)
        if "weight_decay" not in plan.keywords:
            pytest.skip("the recipe takes no weight_decay")
        for _ in plan.phases():
            measured = decays(plan)
        vectors, matrices = _kinds(plan)
        spared = vectors if bench.architecture.name in SPARE_VECTORS else []
        wrong = [n for n in spared if measured.get(n, 0.0) != 0.0]
        assert not wrong, (
            f"{plan.who}: weight decay shrinks {len(wrong)} norms and biases: {some(wrong)}; expected it to leave them"
        )
        left = [n for n in matrices if n in measured and not measured[n] > 0]
        assert not left, (
            f"{plan.who}: weight_decay={WEIGHT_DECAY} does not act on {some(left)}; expected it to shrink them"
        )
        if backbone is CONVNET and "optimizer" in plan.keywords:
            _assert_decay_in_proportion(bench, measured)


def _assert_decay_in_proportion(bench: Bench, full: dict[str, float]) -> None:
    whole = Plan(bench, CONVNET, optimizer=decaying_sgd)
    for _ in whole.phases():
        moved = rates(whole)
    shrunk, due = full.get(HEAD_MATRIX, 0.0), moved.get(HEAD_MATRIX, 0.0) * WEIGHT_DECAY
    assert abs(shrunk - due) <= (EQUAL - 1) * due, (
        f"{whole.who}: weight_decay={WEIGHT_DECAY} shrinks {HEAD_MATRIX} by {shrunk:.3g} a step; expected SGD's "
        f"{due:.3g}, its rate times the decay: another one acts"
    )
    for asked in (WEIGHT_DECAY / 4, 0.0):
        plan = Plan(bench, CONVNET, optimizer=decaying_sgd, weight_decay=asked)
        for _ in plan.phases():
            measured = decays(plan)
        expected = {n: decay * asked / WEIGHT_DECAY for n, decay in full.items()}
        off = [n for n, e in expected.items() if not abs(measured.get(n, 0.0) - e) <= (EQUAL - 1) * abs(e)]
        assert not off, (
            f"{plan.who}: weight_decay={WEIGHT_DECAY} shrinks {off[0]} by {full[off[0]]:.3g}, and weight_decay={asked} "
            f"by {measured.get(off[0], 0.0):.3g}; expected {expected[off[0]]:.3g}: what is asked for does not act"
        )


def _kinds(plan: Plan) -> tuple[list[str], list[str]]:
    """Norms and biases, and the matrices and filters of linear layers, convolutions and attention."""
    vectors, matrices = [], []
    for prefix, module in plan.given.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = type(module).__name__
            if parameter.ndim <= 1 and ("bias" in name or "Norm" in kind):
                vectors.append(f"{prefix}.{name}")
            elif parameter.ndim > 1 and kind in ("Linear", "Conv2d", "MultiheadAttention"):
                matrices.append(f"{prefix}.{name}")
    return vectors, matrices
