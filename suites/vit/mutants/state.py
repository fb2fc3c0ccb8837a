"""Vision Transformers with a fault in their state."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.operators import loading_leniently, method_of
from harness.mutants.probe import CLASSES, Pair
from harness.mutants.state_probe import accepts, changes, reloaded
from harness.mutants.variant import Around, become, mutant, parameters_fault, process_fault, saving_fault
from suites.vit.model import SelfAttention, VisionTransformer
from suites.vit.mutants.base_models import VIT


class RandomScale(Around):
    """Scales by a number drawn at construction."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.scale = 1.0 + float(torch.rand((), device="cpu"))

    def forward(self, x: Tensor) -> Any:
        return self.scale * self.net(x)


@saving_fault(VIT, "The logits are scaled by a number drawn at construction that is no buffer", evidence=reloaded)
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


@parameters_fault(
    VIT, "The encoder layers are in a plain Python list, so nobody trains, moves or saves them", category="state"
)
def layers_not_registered(model: Any) -> nn.Module:
    layers = list(model.layers)
    del model.layers
    model.layers = OneByOne(layers)
    return model


@parameters_fault(VIT, "The class token is a buffer, so it never learns", category="state")
def class_token_is_a_buffer(model: Any) -> nn.Module:
    token = model.class_token.detach()
    del model.class_token
    model.register_buffer("class_token", token)
    return model


class LazyScale(SelfAttention):
    """Makes its scale at the first call, and keeps it."""

    scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        if self.scale is None or self.scale.dtype != x.dtype or self.scale.device != x.device:
            self.scale = torch.full((1, self.heads, 1, 1), q.shape[-1] ** -0.5, dtype=x.dtype, device=x.device)
        heads = torch.softmax((q * self.scale) @ k.mT, -1) @ v
        out: Tensor = self.project(heads.transpose(1, 2).reshape(x.shape))
        return out


def _refuses_training(pair: Pair) -> float:
    _, faulty = pair.filled()
    with torch.inference_mode():
        faulty(pair.images())
    try:
        faulty.train()(pair.images())
    except RuntimeError:
        return 1.0
    return 0.0


@mutant(
    VIT,
    "A constant made at the first call is kept: made under inference_mode, it can't be trained with",
    check="mode_switch",
    category="state",
    evidence=_refuses_training,
)
def constant_of_the_first_call(model: Any) -> nn.Module:
    for layer in model.layers:
        become(layer.attention, LazyScale)
    return model


@saving_fault(
    VIT,
    "load_state_dict is never strict: weights with missing or misspelt names are taken without a word",
    evidence=accepts(lambda own: {n: t for n, t in own.items() if n != "head.weight"}),
)
def lenient_loading(model: Any) -> nn.Module:
    return loading_leniently(model)


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
@method_of("embed")
def tensor_made_on_the_cpu(self: Any, images: Tensor) -> Tensor:
    tokens = VisionTransformer.embed(self, images)
    return tokens + torch.zeros(1, tokens.shape[1], 1, dtype=tokens.dtype, device="cpu")


@process_fault(VIT, "Building the model switches the cyclic garbage collector off", evidence=changes(gc.isenabled))
def garbage_kept(model: Any) -> nn.Module:
    gc.disable()
    return nn.Module.train(model)


@process_fault(
    VIT,
    "Building the model registers a hook on every module of the process",
    evidence=changes(lambda: len(torch.nn.modules.module._global_forward_hooks)),
)
def hook_on_everything(model: Any) -> nn.Module:
    torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    return nn.Module.train(model)
