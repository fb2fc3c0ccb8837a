"""Faulty variants that show once a part is frozen, a step overflows, or the network is a part of another."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from harness.mutants.evidence import Pair, difference, gradients
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12, VIT
from harness.mutants.surgery import Around, become, of_type
from suites.efficientnet.model import StochasticDepth


def _alone(pair: Pair, learns: str) -> float:
    """One if a gradient that the correct network has is missing where only what is named so learns, in train mode."""
    found = []
    for model in pair.filled():
        for name, parameter in model.train().named_parameters():
            parameter.requires_grad_(learns in name)
        logits = model(pair.images())
        if logits.requires_grad:
            logits.sum().backward()
        found.append({n for n, p in model.named_parameters() if p.grad is not None})
    return float(found[0] != found[1])


class ByItsInput(torch.autograd.Function):
    """A linear layer whose backward pass does nothing where its input needs no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        x, weight = ctx.saved_tensors
        return sent[0] @ weight, sent[0].flatten(0, -2).mT @ x.flatten(0, -2), sent[0].flatten(0, -2).sum(0)


class ByItsWeight(ByItsInput):
    """A linear layer whose backward pass gives the bias a gradient only where the weight needs one."""

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        x, weight = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return sent[0] @ weight, None, None
        return sent[0] @ weight, sent[0].flatten(0, -2).mT @ x.flatten(0, -2), sent[0].flatten(0, -2).sum(0)


class InputLinear(nn.Linear):
    """Over `ByItsInput`."""

    def forward(self, x: Tensor) -> Tensor:
        return ByItsInput.apply(x, self.weight, self.bias)


class WeightLinear(nn.Linear):
    """Over `ByItsWeight`."""

    def forward(self, x: Tensor) -> Tensor:
        return ByItsWeight.apply(x, self.weight, self.bias)


@mutant(
    RESNET12,
    "The classifier's backward pass gives up where its input needs no gradient: alone it does not learn",
    check="gradients",
    category="gradient",
    evidence=lambda pair: _alone(pair, "head."),
)
def classifier_needs_its_input(model: Any) -> nn.Module:
    become(model.head, InputLinear)
    return model


@mutant(
    VIT,
    "The perceptrons' biases get a gradient only where the weights do: fine-tuning biases alone does nothing there",
    check="gradients",
    category="gradient",
    evidence=lambda pair: _alone(pair, "bias"),
)
def biases_need_their_weights(model: Any) -> nn.Module:
    for layer in model.layers:
        become(layer.mlp[0], WeightLinear)
    return model


def _from_nan(pair: Pair) -> float:
    """Parameters whose gradients are finite from logits' gradients that are NaN."""
    found = 0
    for model in pair.filled():
        logits = model(pair.images())
        logits.backward(torch.full_like(logits, float("nan")))
        found += sum(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    return float(found)


@mutant(
    VIT,
    "Hooks turn NaN in gradients into zero, so that a loss scaler never sees an overflow",
    check="gradcheck",
    category="gradient",
    evidence=_from_nan,
)
def nan_gradients_hidden(model: Any) -> nn.Module:
    for parameter in model.parameters():
        parameter.register_hook(lambda g: None if g is None else torch.nan_to_num(g))
    return model


class FiniteInTraining(Around):
    """No NaN in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return torch.nan_to_num(logits) if self.training else logits


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
def nan_hidden_in_training(model: Any) -> nn.Module:
    return FiniteInTraining(model)


class Clamped(Around):
    """Keeps the stem's features within what float16 holds."""

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.net
        x = net.stem(x).clamp(-65504, 65504)
        for stage in net.stages:
            x = stage(x)
        logits: Tensor = net.head(net.pool(x).flatten(1))
        return logits


def _finite_from_infinite(pair: Pair) -> float:
    images = pair.images()
    images[:, 0, 9, 9] = float("inf")
    correct, faulty = (m(images).isfinite().float().mean().item() for m in pair.filled())
    return faulty - correct


@mutant(
    RESNET12,
    "The stem's features are clamped to what float16 holds, whatever is computed in: infinity becomes a number",
    check="nan_propagation",
    category="precision",
    evidence=_finite_from_infinite,
)
def features_clamped(model: Any) -> nn.Module:
    return Clamped(model)


class StemGradient(torch.autograd.Function):
    """The stem's convolution, whose weight's gradient is read as if it lay in memory as the weight does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, None, 2, 3)

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        x, weight = ctx.saved_tensors
        of_x = conv2d_input(x.shape, weight, sent[0], 2, 3)
        of_weight = conv2d_weight(x, weight.shape, sent[0], 2, 3).contiguous()
        return of_x, of_weight.as_strided(weight.shape, weight.stride())


class StemConv(nn.Conv2d):
    """Over `StemGradient`."""

    def forward(self, x: Tensor) -> Tensor:
        return StemGradient.apply(x, self.weight)


def _channels_last_gradient(pair: Pair) -> float:
    found = []
    for model in pair.filled():
        model.to(memory_format=torch.channels_last)
        found.append(gradients(model, pair.images())["stem.0.weight"])
    return difference(found[1], found[0])


@mutant(
    RESNET12,
    "A gradient is laid out by its weight's strides: with weights in channels_last it is scrambled",
    check="memory_format",
    category="layout",
    evidence=_channels_last_gradient,
)
def gradient_by_strides(model: Any) -> nn.Module:
    become(model.stem[0], StemConv)
    return model


class Evaluated(Around):
    """Notes in eval(), and there alone, that it is evaluated."""

    evaluated = False

    def eval(self) -> Evaluated:
        super().eval()
        self.evaluated = True
        return self

    def train(self, mode: bool = True) -> Evaluated:
        super().train(mode)
        self.evaluated = self.evaluated and not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


class AskingDepth(StochasticDepth):
    """Asks the network whether it is evaluated."""

    network: tuple[Evaluated, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        self.training = not self.network[0].evaluated
        return super().forward(x)


def _inside_another(pair: Pair) -> float:
    correct, faulty = pair.filled()
    images = pair.images()
    with torch.no_grad():
        return difference(nn.Sequential(faulty).train().eval()(images), correct(images))


@mutant(
    EFFICIENTNET,
    "eval() switches stochastic depth off and train(False) does not: a module around it evaluates it with draws",
    check="state_dict_round_trip",
    category="state",
    evidence=_inside_another,
)
def only_eval_switches(model: Any) -> nn.Module:
    outer = Evaluated(model)
    for _, depth in of_type(model, StochasticDepth):
        asking = become(depth, AskingDepth)
        asking.__dict__["network"] = (outer,)
    return outer
