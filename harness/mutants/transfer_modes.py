"""Recipes after which eval mode, dropout, the process or the state is not what the given network's was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.mutant import mutant
from harness.mutants.recipes import (
    FEATURE_EXTRACTION,
    FULL_FINE_TUNING,
    GRADUAL_UNFREEZING,
    TWO_LEARNING_RATES,
    evaluation,
    large_batch,
    names_added,
    reseeding,
    scheduled_reload,
    training,
)


@mutant(
    FULL_FINE_TUNING,
    "What trains puts itself in train mode, also after eval()",
    check="evaluates",
    category="training",
    evidence=evaluation,
)
def train_mode_forced(tuning: Any) -> Any:
    def force(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        module.training = True

    for module in tuning.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(force)
    return tuning


@mutant(
    FULL_FINE_TUNING,
    "The answers of eval mode are remembered, and given again after training",
    check="evaluates",
    category="shortcut computing",
    evidence=evaluation,
)
def evaluation_remembered(tuning: Any) -> Any:
    forward, remembered = tuning.model.forward, {}

    def remembering(images: Tensor) -> Tensor:
        if tuning.model.training:
            return forward(images)
        key = (images.data_ptr(), images.shape)
        if key not in remembered:
            remembered[key] = forward(images)
        return remembered[key]

    tuning.model.forward = remembering
    return tuning


@mutant(
    TWO_LEARNING_RATES,
    "train() is replaced by one that eval() can't undo",
    check="evaluates",
    category="training",
    evidence=evaluation,
)
def never_in_eval_mode(tuning: Any) -> Any:
    tuning.model.train = lambda mode=True: nn.Module.train(tuning.model, True)
    return tuning


@mutant(FULL_FINE_TUNING, "Dropout is switched off for good", check="dropout", category="stochastic", evidence=training)
def dropout_off(tuning: Any) -> Any:
    for module in tuning.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return tuning


@mutant(
    GRADUAL_UNFREEZING,
    "Dropout that was held with a frozen layer is never let go",
    check="dropout",
    category="stochastic",
    evidence=training,
)
def dropout_never_let_go(tuning: Any) -> Any:
    def hold(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        module.training = False

    for module in tuning.model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_pre_hook(hold)
    return tuning


@mutant(
    FULL_FINE_TUNING,
    "The first weights are kept as buffers of the network, and saved with it ever after",
    check="starts_from_given",
    category="state",
    evidence=names_added,
)
def first_weights_as_buffers(tuning: Any) -> Any:
    for name, parameter in list(tuning.model.named_parameters()):
        tuning.model.register_buffer("first_" + name.replace(".", "_"), parameter.detach().clone())
    return tuning


@mutant(
    FEATURE_EXTRACTION,
    "Applying the recipe seeds torch's generator",
    check="starts_from_given",
    category="state",
    evidence=reseeding,
)
def seeds_torch(tuning: Any) -> Any:
    torch.manual_seed(0)
    return tuning


@mutant(
    FEATURE_EXTRACTION,
    "The gradient of the head is halved for batches of more than eight",
    check="trajectory",
    category="batch",
    evidence=large_batch,
)
def gradient_of_large_batches(tuning: Any) -> Any:
    def halve(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out if len(out) <= 8 else 0.5 * out + 0.5 * out.detach()

    tuning.model.get_submodule(tuning.head).register_forward_hook(halve)
    return tuning


@mutant(
    FEATURE_EXTRACTION,
    "The scheduler's place is not saved",
    check="resume",
    category="state",
    evidence=scheduled_reload,
)
def schedule_not_saved(tuning: Any) -> Any:
    state = tuning.state_dict
    tuning.state_dict = lambda: {**state(), "scheduler": None}
    return tuning
