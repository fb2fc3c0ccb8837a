"""ResNets that are wrong in train mode."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import around, forward_of, with_settings
from harness.mutants.probe import after_steps, train_output
from harness.mutants.state_probe import repeated_call
from harness.mutants.variant import become, mutant, random_fault, statistics_fault
from suites.resnet.mutants.base_models import RESNET12, RESNET17


def normalised_in_parts(norm: nn.BatchNorm2d, x: Tensor, size: int) -> Tensor:
    """``norm`` of ``x`` where it takes its statistics from ``size`` images at a time, in train mode."""
    parts = x.split(size) if norm.training else [x]
    return torch.cat([nn.BatchNorm2d.forward(norm, part) for part in parts])


class KeepsStatistics(nn.BatchNorm2d):
    """Normalises by its running statistics, in training too."""

    def train(self, mode: bool = True) -> KeepsStatistics:
        super().train(False)
        return self


@statistics_fault(RESNET12, "BatchNorm's momentum is 0.01")
def momentum_0_01(model: Any) -> nn.Module:
    return with_settings(model, nn.BatchNorm2d, momentum=0.01)


@statistics_fault(
    RESNET12,
    "One BatchNorm has momentum 0.9: TensorFlow's meaning of the word, one minus PyTorch's",
    issue="https://github.com/Cadene/pretrained-models.pytorch/issues/44",
)
def momentum_0_9(model: Any) -> nn.Module:
    return with_settings(model, "stages.3.0.norm1", momentum=0.9)


@mutant(
    RESNET17,
    "A bottleneck strides in its last 1x1 convolution: the same function, but other statistics in train mode",
    check="parity_train",
    category="training",
    evidence=train_output,
)
def stride_on_the_last_1x1(model: Any) -> nn.Module:
    block = model.stages[3][0]
    block.conv2.stride, block.conv3.stride = (1, 1), (2, 2)
    return model


@statistics_fault(RESNET12, "BatchNorm's momentum is None: a plain average over all batches")
def momentum_none(model: Any) -> nn.Module:
    return with_settings(model, nn.BatchNorm2d, momentum=None)


@statistics_fault(RESNET12, "A handwritten BatchNorm keeps the biased variance, where PyTorch's keeps the unbiased one")
@forward_of("stages.3.0.norm2")
def biased_running_variance(self: Any, input: Tensor) -> Tensor:
    if not self.training:
        return nn.BatchNorm2d.forward(self, input)
    mean, var = input.mean((0, 2, 3)), input.var((0, 2, 3), unbiased=False)
    assert self.running_mean is not None
    assert self.running_var is not None
    with torch.no_grad():
        self.running_mean.lerp_(mean, 0.1)
        self.running_var.lerp_(var, 0.1)
    return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.1, self.eps)


@mutant(
    RESNET12,
    "A handwritten BatchNorm divides by the unbiased deviation in train mode",
    check="parity_train",
    category="training",
    evidence=train_output,
)
@forward_of("stages.3.0.norm2")
def unbiased_batch_deviation(self: Any, input: Tensor) -> Tensor:
    out = nn.BatchNorm2d.forward(self, input)
    if not self.training:
        return out
    count = input.numel() / input.shape[1]
    shift = self.bias.view(1, -1, 1, 1)
    return (out - shift) * ((count - 1) / count) ** 0.5 + shift


@mutant(
    RESNET12,
    "A BatchNorm stays in eval mode when the model trains",
    check="parity_train",
    category="training",
    evidence=train_output,
)
def norm_left_in_eval_mode(model: Any) -> nn.Module:
    become(model.stages[0][0].norm1, KeepsStatistics)
    return model


@statistics_fault(RESNET12, "A BatchNorm never updates its running statistics")
@forward_of("stages.1.0.shortcut.1")
def statistics_never_updated(self: Any, input: Tensor) -> Tensor:
    if not self.training:
        return nn.BatchNorm2d.forward(self, input)
    return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


@mutant(
    RESNET12,
    "A BatchNorm takes its statistics from each half of the batch, as unsynchronised replicas do",
    check="parity_train",
    category="training",
    evidence=train_output,
)
@forward_of("stages.2.0.norm1")
def statistics_of_half_the_batch(self: Any, x: Tensor) -> Tensor:
    return normalised_in_parts(self, x, len(x) if len(x) < 4 else (len(x) + 1) // 2)


class Hardening(nn.BatchNorm2d):
    """Stops updating two batches after `train()`."""

    def train(self, mode: bool = True) -> Hardening:
        super().train(mode)
        self.batches = 0
        return self

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            self.batches += 1
            if self.batches > 2:
                return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(input)


@mutant(
    RESNET12,
    "A BatchNorm stops updating its statistics after the second batch",
    check="parity_trajectory",
    category="training",
    evidence=after_steps(4),
)
def statistics_frozen_after_two_batches(model: Any) -> nn.Module:
    become(model.stages[1][0].norm1, Hardening)
    return model


class StaleWeight(nn.Conv2d):
    """In train mode convolves with the weight of the first call after `train()`."""

    def train(self, mode: bool = True) -> StaleWeight:
        super().train(mode)
        self.stale: Tensor | None = None
        return self

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if self.stale is None:
            self.stale = self.weight.detach().clone()
        weight = self.weight + (self.stale - self.weight).detach()  # the old value, the new gradient
        return self._conv_forward(input, weight, self.bias)


@mutant(
    RESNET12,
    "A convolution keeps a copy of its weight from the first training step: every single step is right",
    check="parity_trajectory",
    category="training",
    evidence=after_steps(3),
)
def stale_weight_in_training(model: Any) -> nn.Module:
    become(model.stages[0][1].conv1, StaleWeight)
    return model


@random_fault(RESNET12, "Dropout of one half in front of the head, which no ResNet has")
@forward_of()
def dropout_before_the_head(self: Any, x: Tensor) -> Tensor:
    x = self.stages(self.stem(x))
    return self.head(F.dropout(torch.flatten(self.pool(x), 1), 0.5, self.training))


@mutant(
    RESNET12,
    "Test-time augmentation from Python's generator is left on in eval mode",
    check="determinism",
    category="stochastic",
    evidence=repeated_call,
)
@around
def python_noise_in_eval_mode(self: Any, x: Tensor) -> Any:
    return self.net(x * (1 + 1e-3 * random.random()))
