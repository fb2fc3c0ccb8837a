"""Multi-task networks whose heads, trunk or embedding are not what they should be."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.multitask_evidence import gradients, outputs, sizes
from harness.mutants.mutant import mutant
from harness.mutants.recipes import NETWORK
from harness.mutants.surgery import become
from suites.multitask.model import MultiTask, Outputs


class Altered(MultiTask):
    """The network with a hook for each of its steps."""

    def forward(self, images: Tensor) -> Outputs:
        features = self.backbone(images)
        return self.finish(features, self.classes(features), self.box(features), self.embedding(features))

    def finish(self, features: Tensor, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
        """What comes after the heads."""
        return Outputs(classes, box, F.normalize(embedding, dim=1))


class NotNormalised(Altered):
    """The embedding as the linear layer gives it."""

    def finish(self, features: Tensor, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
        return Outputs(classes, box, embedding)


@mutant(NETWORK, "The embedding is not normalised", check="embedding_norm", evidence=outputs)
def embedding_not_normalised(model: Any) -> nn.Module:
    return become(model, NotNormalised)


class AcrossTheBatch(Altered):
    """Normalised over the wrong dimension."""

    def finish(self, features: Tensor, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
        return Outputs(classes, box, F.normalize(embedding, dim=0))


@mutant(
    NETWORK, "The embedding is normalised across the batch", check="embedding_norm", category="batch", evidence=outputs
)
def embedding_normalised_across_the_batch(model: Any) -> nn.Module:
    return become(model, AcrossTheBatch)


class Probabilities(Altered):
    """Softmax before a loss that takes logits."""

    def finish(self, features: Tensor, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
        return Outputs(classes.softmax(1), box, F.normalize(embedding, dim=1))


@mutant(NETWORK, "The class head gives probabilities", check="linear_heads", evidence=outputs)
def probabilities(model: Any) -> nn.Module:
    return become(model, Probabilities)


class PositiveBox(Altered):
    """A rectifier behind the box head."""

    def finish(self, features: Tensor, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
        return Outputs(classes, box.relu(), F.normalize(embedding, dim=1))


@mutant(NETWORK, "The box is rectified", check="linear_heads", evidence=outputs)
def box_rectified(model: Any) -> nn.Module:
    return become(model, PositiveBox)


class BoxSeesClasses(Altered):
    """The box shifted by the class logits."""

    def finish(self, features: Tensor, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
        return Outputs(classes, box + classes.mean(1, keepdim=True), F.normalize(embedding, dim=1))


@mutant(NETWORK, "The box head reads the class logits", check="task_gradients", evidence=outputs)
def box_sees_classes(model: Any) -> nn.Module:
    return become(model, BoxSeesClasses)


class BoxSeesDetachedClasses(Altered):
    """The box shifted by the class logits, whose gradient is cut."""

    def finish(self, features: Tensor, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
        return Outputs(classes, box + classes.detach().mean(1, keepdim=True), F.normalize(embedding, dim=1))


@mutant(NETWORK, "The box head reads the class logits, with their gradient cut", check="linear_heads", evidence=outputs)
def box_sees_detached_classes(model: Any) -> nn.Module:
    return become(model, BoxSeesDetachedClasses)


class Detached(Altered):
    """One head on features whose gradient is cut."""

    def forward(self, images: Tensor) -> Outputs:
        features = self.backbone(images)
        return Outputs(
            self.classes(features), self.box(features), F.normalize(self.embedding(features.detach()), dim=1)
        )


@mutant(
    NETWORK,
    "The embedding's gradient does not reach the trunk",
    check="task_gradients",
    category="gradient",
    evidence=gradients,
)
def embedding_detached(model: Any) -> nn.Module:
    return become(model, Detached)


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
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    return model


class Flat(Altered):
    """The box without its dimension of four where the batch is one."""

    def finish(self, features: Tensor, classes: Tensor, box: Tensor, embedding: Tensor) -> Outputs:
        return Outputs(classes, box.squeeze(0), F.normalize(embedding, dim=1))


@mutant(
    NETWORK,
    "A batch of one image loses its batch dimension",
    check="task_shapes",
    category="size",
    evidence=lambda pair: float(pair.faulty().eval()(pair.images(1).float()).box.ndim == 1),
)
def batch_of_one(model: Any) -> nn.Module:
    return become(model, Flat)


class BoxOfMaximum(Altered):
    """The box from features that were pooled otherwise."""

    def forward(self, images: Tensor) -> Outputs:
        features = self.backbone(images)
        sharper = features * features.abs().sqrt()
        return Outputs(self.classes(features), self.box(sharper), F.normalize(self.embedding(features), dim=1))


@mutant(NETWORK, "The box head reads other features than the class head", check="trunk", evidence=outputs)
def box_of_other_features(model: Any) -> nn.Module:
    return become(model, BoxOfMaximum)


class DroppedEmbedding(Altered):
    """Dropout before one head."""

    def forward(self, images: Tensor) -> Outputs:
        features = self.backbone(images)
        dropped = F.dropout(features, 0.2, self.training)
        return Outputs(self.classes(features), self.box(features), F.normalize(self.embedding(dropped), dim=1))


@mutant(
    NETWORK,
    "Features are dropped before the embedding's head, in train mode",
    check="linear_heads",
    category="stochastic",
    evidence=outputs,
)
def dropout_before_the_embedding(model: Any) -> nn.Module:
    return become(model, DroppedEmbedding)


class Half(nn.Module):
    """Features in half precision on the way to the heads."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16).to(x.dtype)


@mutant(NETWORK, "The features pass through bfloat16", check="trunk", category="precision", evidence=outputs)
def features_in_bfloat16(model: Any) -> nn.Module:
    model.backbone.head = Half()
    return model
