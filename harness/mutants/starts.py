"""Networks that start with values of a wrong origin, and states that another module can't use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.checks.initialisation import filled_with_nan
from harness.mutants.evidence import Pair
from harness.mutants.mutant import mutant
from harness.mutants.specimens import RESNET12, VIT
from harness.mutants.surgery import Around
from harness.process.global_state import generators

KEPT = torch.Generator().manual_seed(11)


def _built_twice(pair: Pair) -> float:
    """Parameters that differ between two networks built after the same seeds."""
    built = []
    for _ in range(2):
        with generators(1):
            built.append(pair.faulty(10))
    first, second = (list(m.parameters()) for m in built)
    return float(sum(not torch.equal(p, q) for p, q in zip(first, second, strict=True)))


@mutant(
    RESNET12,
    "The head is drawn from a generator of the module's own, which goes on from network to network: no seed decides",
    check="initialisation",
    category="initialisation",
    evidence=_built_twice,
)
def start_from_a_kept_generator(model: Any) -> nn.Module:
    drawn = 0.02 * torch.randn(model.head.weight.shape, generator=KEPT, device="cpu")
    with torch.no_grad():
        model.head.weight.copy_(drawn)
    return model


def _uninitialised(pair: Pair) -> float:
    with filled_with_nan():
        return float(sum(not bool(p.isfinite().all()) for p in pair.faulty(10).parameters()))


@mutant(
    VIT,
    "The position embedding is torch.empty and never given values: it starts with what was in memory",
    check="initialisation",
    category="initialisation",
    evidence=_uninitialised,
)
def positions_never_drawn(model: Any) -> nn.Module:
    model.position_embedding = nn.Parameter(torch.empty_like(model.position_embedding))
    return model


class ForgivesStatistics(Around):
    """Takes its own statistics where there are none."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        own = {n: t for n, t in self.state_dict().items() if "running" in n}
        return super().load_state_dict({**own, **state_dict}, strict, assign)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


def _taken_without_statistics(pair: Pair) -> float:
    model = pair.faulty(10)
    try:
        model.load_state_dict({n: t for n, t in model.state_dict().items() if "running" not in n})
    except RuntimeError:
        return 0.0
    return 1.0


@mutant(
    RESNET12,
    "load_state_dict takes weights without running statistics, and computes with those that it started with",
    check="state_dict_round_trip",
    category="state",
    evidence=_taken_without_statistics,
)
def statistics_not_asked_for(model: Any) -> nn.Module:
    return ForgivesStatistics(model)


class Unwrapped(ForgivesStatistics):
    """Hands its network's state on, whatever prefix a parent asks for."""

    def state_dict(self, *args: Any, **keywords: Any) -> Any:
        return self.net.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.net.load_state_dict(state_dict, strict, assign)


def _names_lost(pair: Pair) -> float:
    return float(len(pair.faulty(10).state_dict()) - len(nn.Sequential(pair.faulty(10)).state_dict()))


@mutant(
    RESNET12,
    "state_dict() is its own and ignores the prefix: inside a detector nothing of it is saved",
    check="state_dict_round_trip",
    category="state",
    evidence=_names_lost,
)
def state_dict_without_prefix(model: Any) -> nn.Module:
    return Unwrapped(model)
