"""ResNets whose parts cannot be frozen, or thaw."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import around, clearing_gradients, forward_of, method_of
from harness.mutants.probe import CLASSES, Pair, compared, forward
from harness.mutants.state_probe import clears
from harness.mutants.variant import become, mutant, of_type
from suites.resnet.model import ResNet
from suites.resnet.mutants.base_models import RESNET12


class AsksTheNetwork(nn.BatchNorm2d):
    """Normalises by the batch where the network is in train mode, whatever its own mode."""

    network: list[nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        mode = self.network[0].training
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, mode, self.momentum or 0.1, self.eps
        )


@compared
def _norms_frozen(model: nn.Module, pair: Pair) -> Tensor:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return forward(model, pair.images())


@compared
def _late(model: nn.Module, pair: Pair) -> Tensor:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked.fill_(1000)
    return forward(model.train(), pair.images())


@mutant(
    RESNET12,
    "Norms ask the network's mode and not their own: freezing their statistics for fine-tuning does nothing",
    check="mode_switch",
    category="training",
    evidence=_norms_frozen,
)
def norms_ask_the_network(model: Any) -> nn.Module:
    for _, norm in of_type(model, nn.BatchNorm2d):
        become(norm, AsksTheNetwork)
        norm.__dict__["network"] = [model]
    return model


@mutant(
    RESNET12,
    "The forward pass clears gradients in train mode: of several micro-batches the last one counts",
    check="input_untouched",
    category="training",
    evidence=clears(lambda model, pair: model(pair.images())),
)
def gradients_cleared(model: Any) -> nn.Module:
    return clearing_gradients(model)


def _thawed(pair: Pair) -> float:
    model = pair.faulty(CLASSES).requires_grad_(False).train()
    return float(any(p.requires_grad for p in model.parameters()))


@mutant(
    RESNET12,
    "train() makes every parameter trainable, also those that the caller froze",
    check="mode_switch",
    category="training",
    evidence=_thawed,
)
@method_of("train")
def train_thaws(self: Any, mode: bool = True) -> Any:
    return ResNet.train(self, mode).requires_grad_(mode) if mode else ResNet.train(self, mode)


def _nan_hidden(pair: Pair) -> float:
    correct, faulty = (m.train()(pair.images() * float("nan")).isnan().float().mean().item() for m in pair.filled())
    return correct - faulty


@mutant(
    RESNET12,
    "In train mode alone nan_to_num hides that training diverged",
    check="nan_propagation",
    category="training",
    evidence=_nan_hidden,
)
@around
def nan_hidden_in_training(self: Any, x: Tensor) -> Tensor:
    logits: Tensor = self.net(x)
    return torch.nan_to_num(logits) if self.training else logits


@mutant(
    RESNET12,
    "From its hundredth batch on a BatchNorm uses and keeps its running statistics, in train mode too",
    check="parity_train",
    category="training",
    evidence=_late,
)
@forward_of(nn.BatchNorm2d)
def norms_stop_after_a_hundred_batches(self: Any, x: Tensor) -> Tensor:
    if self.training and self.num_batches_tracked is not None and int(self.num_batches_tracked) >= 100:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
    return nn.BatchNorm2d.forward(self, x)


class HalfFrozenNorm(nn.BatchNorm2d):
    """In eval mode keeps its statistics, and normalises with the batch's where the network trains."""

    network: tuple[nn.Module, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.network[0].training:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(x)


@mutant(
    RESNET12,
    "Norms that are frozen by eval() keep their statistics, but go on normalising by the batch's while the rest trains",
    check="mode_switch",
    category="training",
    evidence=_norms_frozen,
)
def frozen_norms_use_the_batch(model: Any) -> nn.Module:
    for _, norm in of_type(model, nn.BatchNorm2d):
        become(norm, HalfFrozenNorm).__dict__["network"] = (model,)
    return model
