"""Networks that state_dict does not carry over whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.evidence import (
    Pair,
    difference,
    forward,
    parameters,
)
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12, VIT
from harness.mutants.surgery import Around, become


def _reloaded(pair: Pair) -> float:
    _, faulty = pair.filled()
    torch.manual_seed(1)
    again = pair.faulty(10).double().eval()
    again.load_state_dict(faulty.state_dict())
    return difference(forward(again, pair.images()), forward(faulty, pair.images()))


@mutant(
    RESNET12,
    "A BatchNorm's running mean is a buffer that state_dict leaves out",
    check="state_dict_round_trip",
    category="state",
    evidence=_reloaded,
)
def running_mean_not_saved(model: Any) -> nn.Module:
    norm = model.stages[2][0].norm1
    norm.register_buffer("running_mean", norm.running_mean, persistent=False)
    return model


class KeepsItsHead(nn.Linear):
    """Skips what is loaded."""

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        return


@mutant(
    EFFICIENTNET,
    "load_state_dict silently keeps the head as it was initialised",
    check="state_dict_round_trip",
    category="state",
    evidence=_reloaded,
)
def head_not_loaded(model: Any) -> nn.Module:
    become(model.classifier, KeepsItsHead)
    return model


class RandomScale(Around):
    """Scales by a number drawn at construction."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.scale = 1.0 + float(torch.rand((), device="cpu"))

    def forward(self, x: Tensor) -> Any:
        return self.scale * self.net(x)


@mutant(
    VIT,
    "The logits are scaled by a number drawn at construction that is no buffer",
    check="state_dict_round_trip",
    category="state",
    evidence=_reloaded,
)
def random_constant_not_saved(model: Any) -> nn.Module:
    return RandomScale(model)


@dataclass(frozen=True)
class OneByOne:
    """Calls layers in turn. No module, so it registers nothing."""

    layers: list[nn.Module]

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@mutant(
    VIT,
    "The encoder layers are in a plain Python list, so nobody trains, moves or saves them",
    check="parameters",
    category="state",
    evidence=parameters,
)
def layers_not_registered(model: Any) -> nn.Module:
    layers = list(model.layers)
    del model.layers
    model.layers = OneByOne(layers)
    return model


@mutant(
    VIT,
    "The class token is a buffer, so it never learns",
    check="parameters",
    category="state",
    evidence=parameters,
)
def class_token_is_a_buffer(model: Any) -> nn.Module:
    token = model.class_token.detach()
    del model.class_token
    model.register_buffer("class_token", token)
    return model
