"""Faults that show when a network is moved, frozen, loaded by assignment, or just built."""

from __future__ import annotations

import gc
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import CLASSES, Pair, difference, forward
from harness.mutants.mutant import mutant
from harness.mutants.process import changes
from harness.mutants.specimens import RESNET12, VIT
from harness.mutants.surgery import Around, become
from suites.resnet.model import ResNet
from suites.vit.model import VisionTransformer


class Normalised(Around):
    """Subtracts a mean that is neither parameter nor buffer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.mean = torch.zeros(3, 1, 1)

    def forward(self, x: Tensor) -> Any:
        return self.net(x - self.mean.to(x.dtype))


def _left_behind(pair: Pair) -> float:
    moved: Any = pair.faulty(CLASSES).to("meta")
    return float(moved.mean.device != next(moved.parameters()).device)


@mutant(
    RESNET12,
    "The images' mean is a plain attribute, which .to(device) leaves behind",
    check="device",
    category="state",
    evidence=_left_behind,
)
def constant_left_behind(model: Any) -> nn.Module:
    return Normalised(model)


class PlacedOnTheCpu(VisionTransformer):
    """Makes an offset for the class token on the CPU, wherever the images are."""

    def embed(self, images: Tensor) -> Tensor:
        tokens = super().embed(images)
        return tokens + torch.zeros(1, tokens.shape[1], 1, dtype=tokens.dtype, device="cpu")


def _refused_elsewhere(pair: Pair) -> float:
    """One where moving to the meta device makes only the faulty network raise."""
    images, raised = pair.images().to("meta"), []
    for factory in (pair.correct, pair.faulty):
        try:
            factory(CLASSES).double().to("meta")(images)
            raised.append(False)
        except RuntimeError:
            raised.append(True)
    return float(raised == [False, True])


@mutant(
    VIT,
    "A tensor is made on the CPU in the forward pass, wherever the images are",
    check="device",
    category="state",
    evidence=_refused_elsewhere,
)
def tensor_made_on_the_cpu(model: Any) -> nn.Module:
    return become(model, PlacedOnTheCpu)


class Captured(nn.Linear):
    """Computes with the parameters that it had when it was made."""

    own: tuple[nn.Parameter, nn.Parameter]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.own)


def _assigned(pair: Pair) -> float:
    correct, faulty = pair.filled()
    other = {n: 2 * t for n, t in correct.state_dict().items()}
    outs = []
    for model in (correct, faulty):
        model.load_state_dict({n: t.clone() for n, t in other.items()}, assign=True)
        outs.append(forward(model, pair.images()))
    return difference(outs[1], outs[0])


@mutant(
    RESNET12,
    "The classifier keeps the parameters that it was made with: load_state_dict(assign=True) has no effect on it",
    check="state_dict_round_trip",
    category="state",
    evidence=_assigned,
)
def parameters_captured(model: Any) -> nn.Module:
    become(model.head, Captured)
    model.head.own = (model.head.weight, model.head.bias)
    return model


class Thawing(ResNet):
    """Lets everything learn in train mode."""

    def train(self, mode: bool = True) -> Any:
        return super().train(mode).requires_grad_(mode) if mode else super().train(mode)


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
def train_thaws(model: Any) -> nn.Module:
    return become(model, Thawing)


@mutant(
    VIT,
    "Building the model switches the cyclic garbage collector off",
    check="global_state",
    category="state",
    evidence=changes(gc.isenabled),
)
def garbage_kept(model: Any) -> nn.Module:
    gc.disable()
    return nn.Module.train(model)


@mutant(
    VIT,
    "Building the model registers a hook on every module of the process",
    check="global_state",
    category="state",
    evidence=changes(lambda: len(torch.nn.modules.module._global_forward_hooks)),
)
def hook_on_everything(model: Any) -> nn.Module:
    torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    return nn.Module.train(model)
