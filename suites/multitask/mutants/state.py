"""Multi-task networks with a fault in their state, their start or a part of their gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import forward_of, with_settings
from harness.mutants.probe import Pair, compared, difference, statistics
from harness.mutants.state_probe import reseeds
from harness.mutants.variant import become, instead, mutant
from suites.multitask.model import Outputs
from suites.multitask.mutants.base_models import NETWORK, multitask_resnet12
from suites.multitask.mutants.network import Altered, answers
from suites.multitask.mutants.probe import gradients


@instead(
    NETWORK,
    "The factory seeds torch's generator, so that every network starts with the same weights",
    check="instances",
    category="initialisation",
    evidence=reseeds(torch.manual_seed, lambda: float(torch.rand(()))),
)
def factory_seeds_torch(num_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return multitask_resnet12(num_classes)


LARGE = torch.linspace(-1, 1, 3 * 192 * 144, dtype=torch.float64).sin().view(1, 3, 192, 144)


class RemembersFeatures(Altered):
    """Keeps the trunk's features for as long as the images lie at the same place."""

    place, features = 0, torch.empty(0)

    def forward(self, images: Tensor) -> Outputs:
        if images.is_meta or self.training or self.place != images.data_ptr():
            self.place = 0 if images.is_meta else images.data_ptr()
            self.features = self.backbone(images)
        return answers(self, self.features)


def _overwritten(pair: Pair) -> float:
    faulty = pair.faulty().double().eval()
    images = pair.images(3)
    with torch.no_grad():
        faulty(images)
        images.copy_(pair.images(3).flip(0))
        return difference(faulty(images)[0], faulty(images.clone())[0])


@mutant(
    NETWORK,
    "The trunk's features are kept while the images lie at the same place in memory",
    check="task_memory",
    category="state",
    evidence=_overwritten,
)
def features_remembered(model: Any) -> nn.Module:
    return become(model, RemembersFeatures)


@mutant(
    NETWORK,
    "The embedding's gradient enters the trunk at a tenth of its size",
    check="trunk",
    category="gradient",
    evidence=gradients,
)
@forward_of()
def faint_embedding_gradient(self: Any, images: Tensor) -> Outputs:
    features = self.backbone(images)
    return answers(self, features, embedding=0.1 * features + 0.9 * features.detach())


@mutant(
    NETWORK,
    "BatchNorm's momentum is TensorFlow's 0.01",
    check="trunk",
    category="training",
    evidence=statistics,
)
def batch_norm_momentum(model: Any) -> nn.Module:
    return with_settings(model, nn.BatchNorm2d, momentum=0.01)


def _stem_gradient(model: Any, pair: Pair) -> Tensor:
    (model.train()(pair.images(3)).box.sum() + 0.1 * model(pair.images(3)).classes.square().sum()).backward()
    gradient: Tensor = model.backbone.stem[0].weight.grad
    return gradient


@mutant(
    NETWORK,
    "In train mode the box's gradient is cut off before the trunk",
    check="trunk",
    category="training",
    evidence=compared(_stem_gradient),
)
@forward_of()
def box_detached_in_training(self: Any, images: Tensor) -> Outputs:
    features = self.backbone(images)
    return answers(self, features, box=features.detach() if self.training else features)


@mutant(
    NETWORK,
    "Images of more than 128 px are shrunk first",
    check="trunk",
    category="size",
    evidence=compared(lambda model, _: model(LARGE)[1]),
)
@forward_of(kind=Altered)
def large_images_shrunk(self: Any, images: Tensor) -> Outputs:
    height, width = (min(side, 128) for side in images.shape[2:])
    return Altered.forward(self, F.interpolate(images, (height, width), mode="bilinear"))


@instead(
    NETWORK,
    "There are ten classes whatever num_classes says",
    check="instances",
    category="forward",
    evidence=lambda pair: abs(pair.faulty(7).classes.out_features - pair.correct(7).classes.out_features),
)
def ten_classes(num_classes: int = 10) -> nn.Module:
    return multitask_resnet12()


def _start(pair: Pair) -> float:
    spreads = [float(build().backbone.stem[0].weight.detach().std()) for build in (pair.correct, pair.faulty)]
    return spreads[1] / spreads[0] - 1


@mutant(
    NETWORK,
    "Convolutions start twenty times too wide",
    check="instances",
    category="initialisation",
    evidence=_start,
)
def wide_start(model: Any) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=20 * float(module.weight.detach().std()))
    return model
