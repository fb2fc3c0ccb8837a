"""Networks that keep something between calls, or write into what is not theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.evidence import (
    Pair,
    difference,
    forward,
    input_change,
    repeated_call,
)
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12, VIT
from harness.mutants.surgery import Around, become


class OneBuffer(Around):
    """Writes all logits of a shape into one tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        if logits.requires_grad or self.training:
            return logits
        if self.kept is None or self.kept.shape != logits.shape or self.kept.dtype != logits.dtype:
            self.kept = torch.empty_like(logits)
        return self.kept.copy_(logits)


def _first_after_second(pair: Pair) -> float:
    _, faulty = pair.filled()
    with torch.no_grad():
        first = faulty(pair.images())
        kept = first.clone()
        faulty(2 * pair.images())
    return difference(first, kept)


@mutant(
    EFFICIENTNET,
    "Every call returns the same output buffer, so a second call overwrites the first one's logits",
    check="no_cache",
    category="state",
    evidence=_first_after_second,
)
def output_buffer_reused(model: Any) -> nn.Module:
    return OneBuffer(model)


class MovingAverage(Around):
    """Smooths the logits over calls."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.level = 0.0

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        if not self.training and not logits.is_meta:
            self.level = 0.9 * self.level + 0.1 * float(logits.detach().mean())
        return logits - self.level


@mutant(
    VIT,
    "In eval mode the logits are centred by a moving average over earlier calls",
    check="determinism",
    category="state",
    evidence=repeated_call,
)
def moving_average_of_logits(model: Any) -> nn.Module:
    return MovingAverage(model)


class InPlaceNormalised(Around):
    """Centres the caller's own images."""

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            x.data.sub_(0.01)
        return self.net(x)


@mutant(
    RESNET12,
    "The images are normalised in place",
    check="input_untouched",
    category="state",
    evidence=input_change,
)
def input_normalised_in_place(model: Any) -> nn.Module:
    return InPlaceNormalised(model)


class AugmentsInPlace(Around):
    """In training blanks a corner of the caller's images afterwards."""

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        if self.training:
            x.data[:, :, 0, 0] = 0
        return logits


@mutant(
    VIT,
    "In train mode a pixel of the caller's images is blanked",
    check="input_untouched",
    category="state",
    evidence=input_change,
)
def input_blanked_in_training(model: Any) -> nn.Module:
    return AugmentsInPlace(model)


class CountsInEval(nn.BatchNorm2d):
    """Tracks the mean in eval mode too."""

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        if not self.training:
            assert self.running_mean is not None
            with torch.no_grad():
                self.running_mean = torch.lerp(self.running_mean, input.mean((0, 2, 3)), 1e-3)
        return out


@mutant(
    RESNET12,
    "Running statistics move in eval mode too",
    check="mode_switch",
    category="state",
    evidence=repeated_call,
)
def statistics_move_in_eval_mode(model: Any) -> nn.Module:
    become(model.stages[0][0].norm1, CountsInEval)
    return model


class FoldedOnce(nn.BatchNorm2d):
    """On `eval()` works out scale and shift, and uses them until the next `eval()`."""

    def train(self, mode: bool = True) -> FoldedOnce:
        super().train(mode)
        if not mode:
            assert self.running_var is not None
            assert self.running_mean is not None
            self.scale = (self.weight * (self.running_var + self.eps) ** -0.5).detach()
            self.shift = (self.bias - self.running_mean * self.scale).detach()
        return self

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        return input * self.scale.to(input)[:, None, None] + self.shift.to(input)[:, None, None]


def _loaded_after_eval(pair: Pair) -> float:
    correct, faulty = pair.filled()
    return difference(forward(faulty, pair.images()), forward(correct, pair.images()))


@mutant(
    RESNET12,
    "eval() folds a norm into constants that loading weights afterwards does not renew",
    check="mode_switch",
    category="state",
    evidence=_loaded_after_eval,
)
def folded_norm_goes_stale(model: Any) -> nn.Module:
    become(model.stages[1][0].norm2, FoldedOnce)
    return model
