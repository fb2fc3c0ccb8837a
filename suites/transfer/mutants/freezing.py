"""Recipes that do not hold still what they say is frozen, let go in another order, or lose something on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from harness.mutants.variant import become, instead, mutant
from suites.transfer.mutants.base_models import FEATURE_EXTRACTION, GRADUAL_UNFREEZING, LP_FT
from suites.transfer.mutants.probe import acceptance, memory, reloaded, training, training_fault


def release(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Let modules of these kinds follow train mode again."""
    for module in model.modules():
        if isinstance(module, kinds):
            module._forward_pre_hooks.clear()


def keep_mode(model: nn.Module, *kinds: type[nn.Module], training: bool, but: nn.Module | None = None) -> None:
    """Modules of these kinds (not those in ``but``) are in that mode in each pass, whatever train() and eval() say."""

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        module.training = training

    spared = set(but.modules()) if but is not None else set()
    for module in model.modules():
        if module not in spared and isinstance(module, kinds):
            module.register_forward_pre_hook(keep)


def on_entering(tuning: Any, change: Callable[[], object]) -> Any:
    """``tuning`` that makes a change whenever it has entered a phase."""
    enter = tuning.enter

    def entering(phase: int) -> None:
        enter(phase)
        change()

    tuning.enter = entering
    return tuning


@training_fault(
    FEATURE_EXTRACTION,
    "The parameters are frozen, BatchNorm's running statistics are not",
    check="frozen",
    issue="https://github.com/pytorch/pytorch/issues/86590",
)
def statistics_follow_the_batch(tuning: Any) -> Any:
    release(tuning.model, nn.BatchNorm2d)
    return tuning


@training_fault(
    FEATURE_EXTRACTION,
    "The backbone is put in eval mode once, and the next train() undoes it",
    check="frozen",
    issue="https://github.com/poppinace/indexnet_matting/issues/35",
)
def eval_mode_once(tuning: Any) -> Any:
    release(tuning.model, nn.Module)
    tuning.model.eval()
    return tuning


@training_fault(
    FEATURE_EXTRACTION,
    "BatchNorm is held in eval mode, the frozen backbone's dropout still drops",
    check="frozen_features",
)
def dropout_stays(tuning: Any) -> Any:
    release(tuning.model, nn.Dropout)
    return tuning


@mutant(
    FEATURE_EXTRACTION,
    "The optimizer holds the head alone, but the backbone still computes its gradients",
    check="frozen",
    category="training",
    evidence=memory,
)
def gradients_for_nothing(tuning: Any) -> Any:
    tuning.model.requires_grad_(True)
    return tuning


@instead(
    FEATURE_EXTRACTION,
    "The backbone's gradients are zeroed by hooks, and weight decay shrinks it all the same",
    check="frozen",
    evidence=training,
)
def weight_decay_on_the_frozen(
    model: nn.Module, head: str, *, lr: float = 1e-3, weight_decay: float = 0.1, optimizer: Any = torch.optim.AdamW
) -> Optimizer:
    kept = {id(p) for p in model.get_submodule(head).parameters()}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.register_hook(torch.zeros_like)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    made: Optimizer = optimizer([{"params": list(model.parameters()), "lr": lr, "weight_decay": weight_decay}])
    return made


@training_fault(FEATURE_EXTRACTION, "The last norm before the head trains too", check="groups")
def last_norm_trains(tuning: Any) -> Any:
    norms = [m for m in tuning.model.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)]
    norms[-1].requires_grad_(True)
    tuning.optimizer.add_param_group({"params": list(norms[-1].parameters()), "lr": 1e-3})
    return tuning


@training_fault(FEATURE_EXTRACTION, "The head is frozen as well", check="groups")
def head_frozen(tuning: Any) -> Any:
    tuning.model.get_submodule(tuning.head).bias.requires_grad_(False)
    return tuning


@instead(
    FEATURE_EXTRACTION,
    "The optimizer holds a copy of the head",
    check="learns",
    evidence=training,
)
def optimizer_of_a_copy(
    model: nn.Module, head: str, *, lr: float = 1e-3, optimizer: Any = torch.optim.AdamW
) -> Optimizer:
    FEATURE_EXTRACTION.factory(model, head, lr=lr)
    last = copy.deepcopy(model.get_submodule(head))
    made: Optimizer = optimizer([{"params": list(last.parameters()), "lr": lr}])
    return made


@training_fault(FEATURE_EXTRACTION, "The head's weights are drawn anew", check="starts_from_given")
def head_drawn_anew(tuning: Any) -> Any:
    tuning.model.get_submodule(tuning.head).reset_parameters()
    return tuning


@training_fault(FEATURE_EXTRACTION, "BatchNorm's statistics are reset to those of no data", check="starts_from_given")
def statistics_reset(tuning: Any) -> Any:
    for module in tuning.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return tuning


@instead(
    FEATURE_EXTRACTION,
    "An unknown head is taken to mean the last module",
    check="unknown_head",
    evidence=acceptance,
)
def any_head(model: nn.Module, head: str, **given: Any) -> Any:
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return FEATURE_EXTRACTION.factory(model, head if head in names else names[-1], **given)


class Halved(nn.Linear):
    """A head whose gradient comes out at half its size."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        out = super().forward(input)
        return 0.5 * out + 0.5 * out.detach()


@mutant(
    FEATURE_EXTRACTION,
    "The gradient of the head is halved on the way",
    check="trajectory",
    category="gradient",
    evidence=training,
)
def gradient_halved(tuning: Any) -> Any:
    become(tuning.model.get_submodule(tuning.head), Halved)
    return tuning


class Forgetful(torch.optim.SGD):
    """SGD whose momentum is not saved."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": {}}


@mutant(
    FEATURE_EXTRACTION,
    "The optimizer's momentum is not saved",
    check="resume",
    category="state",
    evidence=reloaded,
)
def momentum_not_saved(tuning: Any) -> Any:
    tuning.optimizer.__class__ = Forgetful
    return tuning


@training_fault(GRADUAL_UNFREEZING, "Layers are unfrozen from the input up", check="phases")
def from_the_input_up(tuning: Any) -> Any:
    layers = [b - a for a, b in zip([frozenset(), *tuning.phases], tuning.phases, strict=False)]
    head, *others = layers
    tuning.phases = [head.union(*others[len(others) - n :]) for n in range(len(layers))]
    tuning.enter(0)
    return tuning


@training_fault(GRADUAL_UNFREEZING, "The first layer is never unfrozen", check="phases")
def never_the_first(tuning: Any) -> Any:
    tuning.phases.pop()
    return tuning


@training_fault(GRADUAL_UNFREEZING, "A layer is frozen again when the next one is unfrozen", check="phases")
def one_layer_at_a_time(tuning: Any) -> Any:
    head = tuning.phases[0]
    tuning.phases = [head, *(head | (b - a) for a, b in zip(tuning.phases, tuning.phases[1:], strict=False))]
    return tuning


@training_fault(
    GRADUAL_UNFREEZING, "BatchNorm's statistics in layers that are still frozen follow the batch", check="frozen"
)
def statistics_before_their_turn(tuning: Any) -> Any:
    on_entering(tuning, lambda: release(tuning.model, nn.BatchNorm2d)).enter(0)
    return tuning


@mutant(
    GRADUAL_UNFREEZING,
    "The optimizer is made anew for each phase, without its momentum",
    check="state_kept",
    category="state",
    evidence=training,
)
def optimizer_made_anew(tuning: Any) -> Any:
    def renew() -> None:
        old = tuning.optimizer
        tuning.optimizer = type(old)(old.param_groups, **old.defaults)

    return on_entering(tuning, renew)


@mutant(
    GRADUAL_UNFREEZING,
    "Each phase starts from the first weights again",
    check="state_kept",
    category="state",
    evidence=training,
)
def back_to_the_start(tuning: Any) -> Any:
    weights = copy.deepcopy(tuning.model.state_dict())
    return on_entering(tuning, lambda: tuning.model.load_state_dict(weights))


@training_fault(LP_FT, "Everything trains from the start", check="phases")
def no_probe(tuning: Any) -> Any:
    tuning.phases[0] = tuning.phases[1]
    tuning.enter(0)
    return tuning


@training_fault(LP_FT, "The head is frozen while the backbone trains", check="phases")
def head_left_behind(tuning: Any) -> Any:
    tuning.phases[1] -= tuning.phases[0]
    return tuning


@mutant(
    LP_FT,
    "The probe's weights are thrown away before the second phase",
    check="starts_from_given",
    category="state",
    evidence=training,
)
def probe_thrown_away(tuning: Any) -> Any:
    return on_entering(tuning, lambda: nn.init.zeros_(tuning.model.get_submodule(tuning.head).weight))
