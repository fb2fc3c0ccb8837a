"""Recipes whose rates, groups, weight decay or schedule are not what they should be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from harness.mutants.variant import instead, mutant
from suites.transfer.layer_groups import layers_of
from suites.transfer.mutants.base_models import (
    FEATURE_EXTRACTION,
    FULL_FINE_TUNING,
    GRADUAL_UNFREEZING,
    LAYERWISE_DECAY,
    LP_FT,
    TWO_LEARNING_RATES,
)
from suites.transfer.mutants.freezing import on_entering
from suites.transfer.mutants.probe import deep, scheduled, training, training_fault


def _reverse(tuning: Any) -> Any:
    """Give each group the rate of its opposite."""
    rates = sorted({group["lr"] for group in tuning.optimizer.param_groups})
    for group in tuning.optimizer.param_groups:
        group["lr"] = rates[len(rates) - 1 - rates.index(group["lr"])]
    return tuning


def in_all_groups(tuning: Any, **settings: float) -> Any:
    """Give every group these settings."""
    for group in tuning.optimizer.param_groups:
        group.update(settings)
    return tuning


def with_two_rates(optimizer: Any, lr: float, head: list[Any], backbone: list[Any]) -> Optimizer:
    """An optimizer of two groups, of which the backbone's has a tenth of the rate; an empty one is left out."""
    groups = [{"params": backbone, "lr": lr / 10}, {"params": head, "lr": lr}]
    made: Optimizer = optimizer([group for group in groups if group["params"]])
    return made


@training_fault(TWO_LEARNING_RATES, "The rates are swapped", check="rates")
def rates_swapped(tuning: Any) -> Any:
    return _reverse(tuning)


@training_fault(TWO_LEARNING_RATES, "The head trains at the backbone's rate", check="rates")
def one_rate(tuning: Any) -> Any:
    return in_all_groups(tuning, lr=1e-3)


@instead(
    TWO_LEARNING_RATES,
    "Whatever has the shape of a head's parameter is taken for the head's",
    check="rates",
    evidence=training,
)
def head_by_shape(model: nn.Module, head: str, *, lr: float = 1e-3, optimizer: Any = torch.optim.AdamW) -> Optimizer:
    sizes = {p.ndim for p in model.get_submodule(head).parameters()}
    own = [p for p in model.parameters() if p.ndim in sizes]
    return with_two_rates(optimizer, lr, own, [p for p in model.parameters() if p.ndim not in sizes])


@instead(
    TWO_LEARNING_RATES,
    "Whatever has a name that begins like the head's is taken for the head's",
    check="rates",
    evidence=training,
)
def head_by_prefix(model: nn.Module, head: str, *, lr: float = 1e-3, optimizer: Any = torch.optim.AdamW) -> Optimizer:
    own = [p for n, p in model.named_parameters() if n.startswith(head[:2])]
    return with_two_rates(optimizer, lr, own, [p for n, p in model.named_parameters() if not n.startswith(head[:2])])


@training_fault(FULL_FINE_TUNING, "The learning rate that was asked for is ignored", check="learns")
def rate_ignored(tuning: Any) -> Any:
    return in_all_groups(tuning, lr=1e-3)


@training_fault(TWO_LEARNING_RATES, "Norms and biases are under weight decay", check="decay_groups")
def norms_decay(tuning: Any) -> Any:
    return in_all_groups(tuning, weight_decay=max(g["weight_decay"] for g in tuning.optimizer.param_groups))


@training_fault(TWO_LEARNING_RATES, "The weight decay that was asked for acts on nothing", check="decay_groups")
def no_decay(tuning: Any) -> Any:
    return in_all_groups(tuning, weight_decay=0.0)


@training_fault(TWO_LEARNING_RATES, "Norms and biases are in no group", check="groups")
def vectors_in_no_group(tuning: Any) -> Any:
    groups = tuning.optimizer.param_groups
    groups[:] = [g for g in groups if all(p.ndim > 1 for p in g["params"])]
    return tuning


@training_fault(TWO_LEARNING_RATES, "Parameters that no submodule owns (a class token) are in no group", check="groups")
def first_layer_in_no_group(tuning: Any) -> Any:
    first = next(iter(tuning.model.parameters()))
    for group in tuning.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p is not first]
    return tuning


class FirstGroupOnly(torch.optim.lr_scheduler.LRScheduler):
    """Another schedule that leaves all groups but the first at the rate they started with."""

    def __init__(self, other: Any) -> None:
        self.other = other
        self.kept = [g["lr"] for g in other.optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None:
        self.other.step()
        for group, rate in zip(self.other.optimizer.param_groups[1:], self.kept[1:], strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.other.state_dict()
        return state


@mutant(
    GRADUAL_UNFREEZING,
    "The schedule covers only the group that was there when it was made",
    check="scheduler",
    category="training",
    evidence=scheduled,
    issue="https://github.com/pytorch/pytorch/issues/79888",
)
def schedule_of_the_first_group(tuning: Any) -> Any:
    if tuning.scheduler is not None:
        tuning.scheduler = FirstGroupOnly(tuning.scheduler)
    return tuning


@training_fault(GRADUAL_UNFREEZING, "Rates grow towards the earlier layers", check="rates")
def rates_grow_backwards(tuning: Any) -> Any:
    return _reverse(tuning)


@training_fault(GRADUAL_UNFREEZING, "All layers of the backbone share one rate", check="rates")
def no_discrimination(tuning: Any) -> Any:
    fastest = max(g["lr"] for g in tuning.optimizer.param_groups)
    for group in tuning.optimizer.param_groups:
        group["lr"] = fastest if group["lr"] == fastest else fastest / 10
    return tuning


@training_fault(
    LAYERWISE_DECAY,
    "The scale of each layer is written into its group and never applied",
    check="rates",
    issue="https://github.com/facebookresearch/mae/issues/216",
)
def scale_not_applied(tuning: Any) -> Any:
    fastest = max(g["lr"] for g in tuning.optimizer.param_groups)
    for group in tuning.optimizer.param_groups:
        group["lr_scale"], group["lr"] = group["lr"] / fastest, fastest
    return tuning


@training_fault(LAYERWISE_DECAY, "The decay runs towards the head", check="rates")
def decay_towards_the_head(tuning: Any) -> Any:
    return _reverse(tuning)


@training_fault(LAYERWISE_DECAY, "Norms and biases train at the head's rate in every layer", check="rates")
def vectors_at_full_rate(tuning: Any) -> Any:
    fastest = max(g["lr"] for g in tuning.optimizer.param_groups)
    for group in tuning.optimizer.param_groups:
        if all(p.ndim < 2 for p in group["params"]):
            group["lr"] = fastest
    return tuning


@training_fault(FULL_FINE_TUNING, "The first group has a rate of zero", check="learns")
def a_rate_of_zero(tuning: Any) -> Any:
    tuning.optimizer.param_groups[0]["lr"] = 0.0
    return tuning


@training_fault(FULL_FINE_TUNING, "Biases train at twice the rate", check="rates")
def biases_at_twice_the_rate(tuning: Any) -> Any:
    tuning.optimizer.param_groups[-1]["lr"] *= 2
    return tuning


def _as_text(layers: Sequence[list[str]]) -> list[list[str]]:
    """The same layers, with numbered ones in the order of their names as text: 0, 1, 10, 11, 2."""
    runs = groupby(layers, key=lambda names: names[0].split(".")[0].rstrip("0123456789"))
    return [layer for _, run in runs for layer in sorted(run, key=lambda names: names[0])]


@instead(LAYERWISE_DECAY, "Blocks are sorted by their names as text: 10 before 2", check="rates", evidence=deep)
def blocks_sorted_as_text(
    model: nn.Module, head: str, *, lr: float = 1e-3, weight_decay: float = 0.0, optimizer: Any = torch.optim.AdamW
) -> Any:
    tuning: Any = LAYERWISE_DECAY.factory(model, head, lr=lr, weight_decay=weight_decay, optimizer=optimizer)
    layers = _as_text(layers_of(model, head, coarse=False))
    depth = {id(model.get_parameter(n)): k for k, names in enumerate(layers) for n in names}
    for group in tuning.optimizer.param_groups:
        group["lr"] = lr * 0.75 ** (len(layers) - 1 - depth[id(group["params"][0])])
    return tuning


@mutant(
    GRADUAL_UNFREEZING,
    "Blocks are unfrozen in the order of their names as text: 2 before 10",
    check="phases",
    category="training",
    evidence=deep,
)
def blocks_unfrozen_as_text(tuning: Any) -> Any:
    layers = _as_text(layers_of(tuning.model, tuning.head))[::-1]
    tuning.phases = [frozenset(n for layer in layers[: k + 1] for n in layer) for k in range(len(layers))]
    tuning.enter(0)
    return tuning


def _split_off_last_norm(tuning: Any, rate: float) -> Any:
    """Give the norm between the last block and the head, where there is one, a group of its own."""
    norms = [m for n, m in tuning.model.named_modules() if n.split(".")[-1] in ("norm", "ln")]
    own = [p for m in norms for p in m.parameters()]
    for group in tuning.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if all(p is not q for q in own)]
    if own:
        tuning.optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})
    return tuning


@training_fault(LAYERWISE_DECAY, "The last norm, of no block, counts as the first layer", check="rates")
def last_norm_slowest(tuning: Any) -> Any:
    return _split_off_last_norm(tuning, min(g["lr"] for g in tuning.optimizer.param_groups))


@training_fault(LAYERWISE_DECAY, "The last norm, of no block, trains faster than the head", check="rates")
def last_norm_fastest(tuning: Any) -> Any:
    return _split_off_last_norm(tuning, 20 * max(g["lr"] for g in tuning.optimizer.param_groups))


@training_fault(LP_FT, "After the probe the backbone trains faster than the head", check="rates")
def backbone_faster_after_the_probe(tuning: Any) -> Any:
    return _reverse(tuning)


@training_fault(
    FEATURE_EXTRACTION, "The weight decay that was asked for does not act on the head", check="decay_groups"
)
def no_decay_of_the_head(tuning: Any) -> Any:
    return in_all_groups(tuning, weight_decay=0.0)


@instead(FULL_FINE_TUNING, "The optimizer that was asked for is ignored", check="learns", evidence=training)
def optimizer_ignored(
    model: nn.Module, head: str, *, lr: float = 1e-3, weight_decay: float = 0.0, optimizer: Any = None
) -> Any:
    return FULL_FINE_TUNING.factory(model, head, lr=lr, weight_decay=weight_decay)


@mutant(
    GRADUAL_UNFREEZING,
    "Each phase starts at the first rates again, whatever the schedule has come to",
    check="scheduler",
    category="training",
    evidence=scheduled,
)
def schedule_thrown_away(tuning: Any) -> Any:
    rates = [g["lr"] for g in tuning.optimizer.param_groups]

    def restart() -> None:
        for group, rate in zip(tuning.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    return on_entering(tuning, restart)
