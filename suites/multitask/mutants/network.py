"""Multi-task networks that are wrong."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import (
    ThroughBfloat16,
    clearing_gradients,
    forward_of,
    loading_leniently,
    method_of,
    with_settings,
)
from harness.mutants.probe import Pair
from harness.mutants.state_probe import accepts, changes, clears
from harness.mutants.variant import instead, mutant, replaced
from suites.multitask.model import MultiTask, Outputs
from suites.multitask.mutants.base_models import NETWORK, multitask_resnet12
from suites.multitask.mutants.probe import gradients, outputs, sizes


class Altered(MultiTask):
    """The network with a hook for what comes after its heads."""

    def forward(self, images: Tensor) -> Outputs:
        features = self.backbone(images)
        return self.finish(self.classes(features), self.box(features), self.embedding(features))

    def finish(self, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
        """What comes after the heads."""
        return Outputs(classes, box, F.normalize(embedding, dim=1))


def answers(net: Any, features: Tensor, *, box: Tensor | None = None, embedding: Tensor | None = None) -> Outputs:
    """The tasks' outputs where one head may read other features, all of (batch, width)."""
    for_box, for_embedding = (features if other is None else other for other in (box, embedding))
    return Outputs(net.classes(features), net.box(for_box), F.normalize(net.embedding(for_embedding), dim=1))


@mutant(NETWORK, "The embedding is not normalised", check="embedding_norm", evidence=outputs)
@method_of("finish", kind=Altered)
def embedding_not_normalised(self: Any, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
    return Outputs(classes, box, embedding)


@mutant(
    NETWORK, "The embedding is normalised across the batch", check="embedding_norm", category="batch", evidence=outputs
)
@method_of("finish", kind=Altered)
def embedding_normalised_across_the_batch(self: Any, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
    return Outputs(classes, box, F.normalize(embedding, dim=0))


@mutant(NETWORK, "The class head gives probabilities", check="linear_heads", evidence=outputs)
@method_of("finish", kind=Altered)
def probabilities(self: Any, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
    return Outputs(classes.softmax(1), box, F.normalize(embedding, dim=1))


@mutant(NETWORK, "The box is rectified", check="linear_heads", evidence=outputs)
@method_of("finish", kind=Altered)
def box_rectified(self: Any, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
    return Outputs(classes, box.relu(), F.normalize(embedding, dim=1))


@mutant(NETWORK, "The box head reads the class logits", check="task_gradients", evidence=outputs)
@method_of("finish", kind=Altered)
def box_sees_classes(self: Any, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
    return Outputs(classes, box + classes.mean(1, keepdim=True), F.normalize(embedding, dim=1))


@mutant(NETWORK, "The box head reads the class logits, with their gradient cut", check="linear_heads", evidence=outputs)
@method_of("finish", kind=Altered)
def box_sees_detached_classes(self: Any, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
    return Outputs(classes, box + classes.detach().mean(1, keepdim=True), F.normalize(embedding, dim=1))


@mutant(
    NETWORK,
    "The embedding's gradient does not reach the trunk",
    check="task_gradients",
    category="gradient",
    evidence=gradients,
)
@forward_of()
def embedding_detached(self: Any, images: Tensor) -> Outputs:
    features = self.backbone(images)
    return answers(self, features, embedding=features.detach())


@mutant(NETWORK, "The box head has no bias", check="task_parameters", evidence=sizes)
def box_without_bias(model: Any) -> nn.Module:
    model.box.bias = None
    return model


@mutant(NETWORK, "The trunk keeps its own head of 512 outputs", check="task_parameters", evidence=sizes)
def trunk_keeps_a_head(model: Any) -> nn.Module:
    model.backbone.head = nn.Linear(512, 512)
    return model


@mutant(
    NETWORK,
    "The trunk starts frozen",
    check="task_parameters",
    category="gradient",
    evidence=gradients,
)
def trunk_frozen(model: Any) -> nn.Module:
    model.backbone.requires_grad_(False)
    return model


class Maximum(nn.Module):
    """Global maximum pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3), keepdim=True)


@mutant(NETWORK, "The trunk pools by the maximum", check="trunk", evidence=outputs)
def maximum_pooling(model: Any) -> nn.Module:
    model.backbone.pool = Maximum()
    return model


@mutant(NETWORK, "BatchNorm of the trunk adds 1e-3 to the variance", check="trunk", evidence=outputs)
def trunk_eps(model: Any) -> nn.Module:
    return with_settings(model, nn.BatchNorm2d, eps=1e-3)


@mutant(
    NETWORK,
    "A batch of one image loses its batch dimension",
    check="task_shapes",
    category="size",
    evidence=lambda pair: float(pair.faulty().eval()(pair.images(1).float()).box.ndim == 1),
)
@method_of("finish", kind=Altered)
def batch_of_one(self: Any, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
    return Outputs(classes, box.squeeze(0), F.normalize(embedding, dim=1))


@mutant(NETWORK, "The box head reads other features than the class head", check="trunk", evidence=outputs)
@forward_of()
def box_of_other_features(self: Any, images: Tensor) -> Outputs:
    features = self.backbone(images)
    return answers(self, features, box=features * features.abs().sqrt())


@mutant(
    NETWORK,
    "Features are dropped before the embedding's head, in train mode",
    check="linear_heads",
    category="stochastic",
    evidence=outputs,
)
@forward_of()
def dropout_before_the_embedding(self: Any, images: Tensor) -> Outputs:
    features = self.backbone(images)
    return answers(self, features, embedding=F.dropout(features, 0.2, self.training))


@mutant(NETWORK, "The features pass through bfloat16", check="trunk", category="precision", evidence=outputs)
def features_in_bfloat16(model: Any) -> nn.Module:
    return replaced(model, "backbone.head", ThroughBfloat16())


@mutant(
    NETWORK,
    "load_state_dict is never strict: an empty state is taken, and nothing said",
    check="task_memory",
    category="state",
    evidence=accepts(lambda own: {}),
)
def loading_is_lenient(model: Any) -> nn.Module:
    return loading_leniently(model)


def _of_zeros(pair: Pair) -> float:
    finite = []
    for build in (pair.correct, pair.faulty):
        model = build().double().eval()
        nn.init.zeros_(model.embedding.weight)
        nn.init.zeros_(model.embedding.bias)
        finite.append(bool(model(pair.images(2)).embedding.isfinite().all()))
    return float(finite == [True, False])


@mutant(
    NETWORK,
    "The embedding is divided by its length without a guard: zeros give NaN",
    check="embedding_norm",
    category="precision",
    evidence=_of_zeros,
)
@method_of("finish", kind=Altered)
def embedding_without_guard(self: Any, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
    return Outputs(classes, box, embedding / embedding.norm(dim=1, keepdim=True))


@instead(
    NETWORK,
    "Building the network sets the precision of float32 products for the whole process",
    check="instances",
    category="state",
    evidence=changes(torch.get_float32_matmul_precision),
)
def building_lowers_precision(num_classes: int = 10) -> nn.Module:
    torch.set_float32_matmul_precision("medium")
    return multitask_resnet12(num_classes)


@mutant(
    NETWORK,
    "Each pass in train mode clears the gradients: of micro-batches only the last one counts",
    check="task_memory",
    category="state",
    evidence=clears(lambda model, pair: model(pair.images(2))),
)
def pass_clears_gradients(model: Any) -> nn.Module:
    return clearing_gradients(model)


def _short(pair: Pair) -> float:
    model = pair.faulty().double().eval()
    with torch.no_grad():
        model.embedding.weight.mul_(1e-4)
        model.embedding.bias.mul_(1e-4)
        return float((model(pair.images(2)).embedding.norm(dim=1) - 1).abs().max())


@mutant(
    NETWORK,
    "The embedding is divided by its length or 0.05, whichever is more",
    check="embedding_norm",
    category="precision",
    evidence=_short,
)
@method_of("finish", kind=Altered)
def embedding_guard_too_wide(self: Any, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
    return Outputs(classes, box, F.normalize(embedding, dim=1, eps=0.05))
