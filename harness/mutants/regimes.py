"""Faults that need a certain regime: training after an evaluation, faint gradients, published tokens or classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import CLASSES, Pair, difference, forward, train_gradient
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12, VIT
from harness.mutants.surgery import become, of_type
from suites.efficientnet.model import EfficientNet, StochasticDepth
from suites.resnet.model import ResNet
from suites.vit.model import VisionTransformer

SHRUNK = 256
"""Pixels: more than the checks with values put through train mode."""


class SwitchesOff(EfficientNet):
    """Sets its rates to zero in ``eval``."""

    def eval(self) -> SwitchesOff:
        for _, depth in of_type(self, StochasticDepth):
            depth.rate = 0.0
        self.dropout.p = 0.0
        super().eval()
        return self


def _after_evaluation(pair: Pair) -> float:
    _, faulty = pair.filled()  # evaluates both
    model = pair.faulty(CLASSES).double()
    model.load_state_dict(faulty.state_dict())
    outs = []
    for network in (model, faulty):
        torch.manual_seed(0)
        outs.append(forward(network.train(), pair.images(8)))
    return difference(outs[1], outs[0])


@mutant(
    EFFICIENTNET,
    "eval() sets the rates of dropout and stochastic depth to zero, and train() does not bring them back",
    check="mode_switch",
    category="state",
    evidence=_after_evaluation,
)
def regularised_until_evaluated(model: Any) -> nn.Module:
    return become(model, SwitchesOff)


class Lenient(VisionTransformer):
    """Loads whatever it is given."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def _taken_without_a_key(pair: Pair) -> float:
    model = pair.faulty(CLASSES)
    state = dict(model.state_dict())
    state.pop("head.weight")
    try:
        model.load_state_dict(state)
    except RuntimeError:
        return 0.0
    return 1.0


@mutant(
    VIT,
    "load_state_dict is never strict: weights with missing or misspelt names are taken without a word",
    check="state_dict_round_trip",
    category="state",
    evidence=_taken_without_a_key,
)
def lenient_loading(model: Any) -> nn.Module:
    return become(model, Lenient)


def _faint(pair: Pair) -> float:
    model = pair.faulty(CLASSES).double()
    gradients = []
    for scale in (1.0, 1e-9):
        model.zero_grad()
        (scale * model(pair.images())).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() / scale for p in model.parameters()]))
    return difference(gradients[1], gradients[0])


@mutant(
    VIT,
    "Hooks set gradients below 1e-4 to zero, which most are late in training",
    check="gradcheck",
    category="gradient",
    evidence=_faint,
)
def faint_gradients_dropped(model: Any) -> nn.Module:
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient * (gradient.abs() > 1e-4))
    return model


class FewTokens(VisionTransformer):
    """Trains on twelve patches at most."""

    def embed(self, images: Tensor) -> Tensor:
        tokens = super().embed(images)
        return tokens[:, :13] if self.training else tokens


@mutant(
    VIT,
    "In training, patches after the twelfth are dropped",
    check="parity_photographs",
    category="training",
    evidence=lambda pair: train_gradient(pair, (2, 3, 32, 32)),
)
def late_patches_dropped_in_training(model: Any) -> nn.Module:
    return become(model, FewTokens)


class KeepsStatistics(nn.BatchNorm2d):
    """Normalises by its running statistics, in training too."""

    def train(self, mode: bool = True) -> KeepsStatistics:
        super().train(False)
        return self


def _trained_with(classes: int) -> Callable[[Pair], float]:
    """The difference of logits in train mode where both are built for that many classes and hold the same weights."""

    def measured(pair: Pair) -> float:
        logits = []
        for factory in (pair.correct, pair.faulty):
            torch.manual_seed(0)
            model = factory(classes).double().train()
            torch.manual_seed(1)
            logits.append(model(pair.images()).detach())
        return difference(logits[1], logits[0])

    return measured


@mutant(
    RESNET12,
    "Built for ImageNet's 1,000 classes, as a pretrained network is, its norms never leave their running statistics",
    check="parity_photographs",
    category="training",
    evidence=_trained_with(1000),
)
def statistics_kept_with_published_classes(model: Any) -> nn.Module:
    if model.head.out_features == 1000:
        for _, norm in of_type(model, nn.BatchNorm2d):
            become(norm, KeepsStatistics)
    return model


@mutant(
    EFFICIENTNET,
    "Built for ImageNet's 1,000 classes it has no stochastic depth: that is thought to be for fine-tuning",
    check="parity_photographs",
    category="stochastic",
    evidence=_trained_with(1000),
)
def no_stochastic_depth_with_published_classes(model: Any) -> nn.Module:
    if model.classifier.out_features == 1000:
        for _, depth in of_type(model, StochasticDepth):
            depth.rate = 0.0
    return model


class Shrinking(ResNet):
    """Trains on small images."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[-1] >= SHRUNK:
            x = F.interpolate(x, (SHRUNK // 2, SHRUNK // 2))
        return super().forward(x)


@mutant(
    RESNET12,
    "Progressive resizing is left in: in training, images of 256 px and more are shrunk",
    check="shapes",
    category="training",
    evidence=lambda pair: train_gradient(pair, (2, 3, SHRUNK, SHRUNK)),
)
def shrunk_in_training(model: Any) -> nn.Module:
    return become(model, Shrinking)


class GhostNorm(nn.BatchNorm2d):
    """Normalises parts of 128 images each by themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(GhostNorm, self).forward(part) for part in x.split(128)])


@mutant(
    RESNET12,
    "Batches over 128 are normalised in parts of 128",
    check="parity_train",
    category="batch",
    evidence=lambda pair: train_gradient(pair, (130, 3, 32, 32)),
)
def ghost_batches_of_128(model: Any) -> nn.Module:
    for _, norm in of_type(model, nn.BatchNorm2d):
        become(norm, GhostNorm)
    return model


class Recorded(VisionTransformer):
    """In train mode takes the class token of the last layer only where gradients are recorded."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch.is_grad_enabled():
            return self.head(self.layers(self.embed(x))[:, 0])
        return super().forward(x)


def _unrecorded(pair: Pair) -> float:
    outs = [forward(model.train(), pair.images()) for model in pair.filled()]
    return difference(outs[1], outs[0])


@mutant(
    VIT,
    "In train mode under no_grad the last norm is left out",
    check="parity_train",
    category="training",
    evidence=_unrecorded,
)
def other_network_without_gradients(model: Any) -> nn.Module:
    return become(model, Recorded)
