"""Faults that show in what a training loop does around a pass: accumulating, copying, freezing, loading, scaling up."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import CLASSES, Pair, difference, train_gradient
from harness.mutants.mutant import mutant
from harness.mutants.specimens import RESNET12, VIT
from harness.mutants.surgery import become, of_type
from suites.resnet.model import ResNet
from suites.vit.model import VisionTransformer

CHUNK = 8


class _Linear(torch.autograd.Function):
    """`torch.nn.functional.linear` with a backward pass of its own; ``owner`` holds the module."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, owner: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.owner = owner
        return F.linear(x, weight, bias)


class LastChunk(_Linear):
    """Works through the batch in chunks, and keeps the last one's weight gradient."""

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        x, weight = ctx.saved_tensors
        kept = torch.zeros_like(weight)
        for part, given in zip(sent[0].split(CHUNK), x.split(CHUNK), strict=True):
            kept = part.mT @ given
        return sent[0] @ weight, kept, sent[0].sum(0), None


class Overwriting(_Linear):
    """Writes the weight's gradient itself."""

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        x, weight = ctx.saved_tensors
        ctx.owner[0].weight.grad = (sent[0].mT @ x).to(weight.dtype)
        return sent[0] @ weight, None, sent[0].sum(0), None


class ChunkedHead(nn.Linear):
    """A linear layer over `LastChunk`."""

    def forward(self, x: Tensor) -> Tensor:
        return LastChunk.apply(x, self.weight, self.bias, None)


class OverwritingHead(nn.Linear):
    """A linear layer over `Overwriting`."""

    def forward(self, x: Tensor) -> Tensor:
        return Overwriting.apply(x, self.weight, self.bias, [self])


@mutant(
    RESNET12,
    "The classifier's backward pass goes through chunks of eight images, and assigns where it should add",
    check="parity_train",
    category="batch",
    evidence=lambda pair: train_gradient(pair, (2 * CHUNK, 3, 32, 32)),
)
def gradient_of_the_last_chunk(model: Any) -> nn.Module:
    become(model.head, ChunkedHead)
    return model


def _accumulated(pair: Pair) -> float:
    gradients = []
    for model in pair.filled():
        for image in pair.images(2):
            model(image[None]).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None}["head.weight"])
    return difference(gradients[1], gradients[0])


@mutant(
    RESNET12,
    "The classifier's backward pass writes its weight's gradient: what was accumulated before is lost",
    check="gradcheck",
    category="gradient",
    evidence=_accumulated,
)
def gradient_not_accumulated(model: Any) -> nn.Module:
    become(model.head, OverwritingHead)
    return model


def _copied(pair: Pair) -> float:
    twin = copy.deepcopy(pair.faulty(CLASSES).double().eval())
    before = twin(pair.images())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    return 1.0 - difference(twin(pair.images()), before)  # zero parameters give zero logits


@mutant(
    RESNET12,
    "The forward pass is a closure over the layers: a deep copy, as averaged weights are kept in, runs the original's",
    check="state_dict_round_trip",
    category="state",
    evidence=_copied,
)
def copy_runs_the_original(model: Any) -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        out: Tensor = type(model).forward(model, x)
        return out

    model.forward = forward
    return model


class AsksTheNetwork(nn.BatchNorm2d):
    """Normalises by the batch where the network is in train mode, whatever its own mode."""

    network: list[nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        mode = self.network[0].training
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, mode, self.momentum or 0.1, self.eps
        )


def _norms_frozen(pair: Pair) -> float:
    logits = []
    for model in pair.filled():
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        logits.append(model(pair.images()).detach())
    return difference(logits[1], logits[0])


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


class SavesMemory(VisionTransformer):
    """Runs frozen layers without a graph."""

    def forward(self, images: Tensor) -> Tensor:
        frozen = not any(p.requires_grad for p in self.layers.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return super().forward(images)


def _below_frozen(pair: Pair) -> float:
    model = pair.faulty(CLASSES)
    model.layers.requires_grad_(False)
    return float(not model(pair.images().float()).requires_grad)


@mutant(
    VIT,
    "Where the encoder is frozen it runs under no_grad: the patch embedding before it stops learning",
    check="gradients",
    category="gradient",
    evidence=_below_frozen,
)
def frozen_layers_without_a_graph(model: Any) -> nn.Module:
    return become(model, SavesMemory)


class Tolerant(ResNet):
    """Loads what it knows."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        own = self.state_dict()
        fitting = {n: t if t.shape == own[n].shape else own[n] for n, t in state_dict.items() if n in own}
        return super().load_state_dict(fitting, strict, assign)


def _taken_with_another_shape(pair: Pair) -> float:
    model = pair.faulty(CLASSES)
    try:
        model.load_state_dict(pair.faulty(CLASSES + 1).state_dict())
    except RuntimeError:
        return 0.0
    return 1.0


@mutant(
    RESNET12,
    "load_state_dict keeps its own values where a shape differs, and drops names that it does not know",
    check="state_dict_round_trip",
    category="state",
    evidence=_taken_with_another_shape,
)
def tolerant_loading(model: Any) -> nn.Module:
    return become(model, Tolerant)


@mutant(
    RESNET12,
    "Every parameter starts from a normal distribution of 0.02, the scales of norms included: signals die out",
    check="initialisation",
    category="initialisation",
    evidence=lambda pair: 1.0 - float(pair.faulty(CLASSES).stem[1].weight.detach().mean()),
)
def scales_start_near_zero(model: Any) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model


class ClearsGradients(ResNet):
    """Forgets for its user."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.zero_grad(set_to_none=True)
        return super().forward(x)


def _gradients_gone(pair: Pair) -> float:
    model = pair.faulty(CLASSES).double().train()
    model(pair.images()).sum().backward()
    model(pair.images())
    return float(model.head.weight.grad is None)


@mutant(
    RESNET12,
    "The forward pass clears gradients in train mode: of several micro-batches the last one counts",
    check="input_untouched",
    category="training",
    evidence=_gradients_gone,
)
def gradients_cleared(model: Any) -> nn.Module:
    return become(model, ClearsGradients)


class MixedPrecision(ResNet):
    """Trains under autocast, whoever calls."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.training and x.dtype is torch.float32):
            return super().forward(x).to(x.dtype)


def _in_float32(pair: Pair) -> float:
    logits = [model.float().train()(pair.images().float()).detach() for model in pair.filled()]
    return difference(logits[1], logits[0])


@mutant(
    RESNET12,
    "Mixed precision is built in: in train mode it computes in bfloat16 where float32 was asked for",
    check="parity_float32",
    category="precision",
    evidence=_in_float32,
)
def mixed_precision_built_in(model: Any) -> nn.Module:
    return become(model, MixedPrecision)
