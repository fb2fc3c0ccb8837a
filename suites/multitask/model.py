"""One trunk with heads for classes, a box and an embedding, and their combined loss.

The loss of an image's class is cross-entropy, of its box the mean squared error over the four coordinates, of its
embedding one minus the cosine similarity to the target. Fixed weights as in the loss of Redmon et al. 2015; learnt ones
as in Kendall et al. 2018 (arXiv:1705.07115), equation 10, with the log-variance as parameter; gradients projected where
they conflict as in Yu et al. 2020 (PCGrad, arXiv:2001.06782).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

TASKS = ("classes", "box", "embedding")
WEIGHTS = (1.0, 0.5, 0.2)


class Outputs(NamedTuple):
    """What the network says about a batch: ``classes`` (batch, 10) logits, ``box`` (batch, 4), ``embedding``
    (batch, 128) of unit length."""

    classes: Tensor
    box: Tensor
    embedding: Tensor


class MultiTask(nn.Module):
    """Any backbone that gives (batch, width) features, shared by three linear heads."""

    def __init__(
        self, backbone: nn.Module, width: int, *, num_classes: int = 10, box: int = 4, embedding: int = 128
    ) -> None:
        super().__init__()
        counts = {"width": width, "num_classes": num_classes, "box": box, "embedding": embedding}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count}: must be at least 1")
        self.backbone = backbone
        self.classes = nn.Linear(width, num_classes)
        self.box = nn.Linear(width, box)
        self.embedding = nn.Linear(width, embedding)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Outputs:
        """Logits, box and unit-length embedding of every image."""
        features = self.backbone(images)  # (batch, width)
        return Outputs(self.classes(features), self.box(features), F.normalize(self.embedding(features), dim=1))


def multitask_resnet50(num_classes: int = 10) -> MultiTask:
    """A ResNet-50 without its head under the three heads: 23,798,990 parameters for 10 classes."""
    from suites.resnet.model import resnet50  # any other backbone does as well

    backbone = resnet50(num_classes=1)
    width = backbone.head.in_features
    backbone.head = nn.Identity()  # type: ignore[assignment]
    return MultiTask(backbone, width, num_classes=num_classes)


def task_losses(
    outputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    masks: Sequence[Bool[Tensor, " batch"] | None] | None = None,
) -> Float[Tensor, " tasks"]:
    """The mean loss of each task over the images that have its label.

    ``targets`` are class numbers (batch,), boxes (batch, 4) and embeddings (batch, 128) of any length. A task's mask
    (batch,) is True where an image has the label; None means all have. Images without a label are left out before the
    loss, so that whatever stands in their place (NaN, -1) reaches neither value nor gradient. A task that no image has
    a label for gives a zero that is connected to its head. Raises ValueError where no task has a label, where a class
    is out of range, and for masks that are not boolean.
    """
    given = masks if masks is not None else (None,) * len(TASKS)
    kept = [_labelled(t, o, y, m) for t, o, y, m in zip(TASKS, outputs, targets, given, strict=True)]
    if not any(len(labels) for _, labels in kept):
        raise ValueError("every task is masked for every image: there is nothing to learn from")
    (logits, classes), (box, box_target), (embedding, embedding_target) = kept
    return torch.stack(
        [
            _class_loss(logits, classes) if len(classes) else outputs[0].sum() * 0.0,
            F.mse_loss(box, box_target) if len(box) else outputs[1].sum() * 0.0,
            1.0 - F.cosine_similarity(embedding, embedding_target).mean() if len(embedding) else outputs[2].sum() * 0.0,
        ]
    )


def multitask_loss(
    outputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    masks: Sequence[Bool[Tensor, " batch"] | None] | None = None,
    *,
    weights: Sequence[float] = WEIGHTS,
) -> Float[Tensor, ""]:
    """The sum of `task_losses` with fixed ``weights``, a scalar."""
    losses = task_losses(outputs, targets, masks)
    if len(weights) != len(losses) or any(w < 0 for w in weights):
        raise ValueError(f"weights={tuple(weights)}: expected {len(losses)} numbers, none below 0")
    return (losses * losses.new_tensor(tuple(weights))).sum()


class UncertaintyWeighting(nn.Module):
    """Weights that are learnt: each task's loss over its variance, plus half the log-variance.

    The parameter is the log-variance, so that weights are positive for any value; it starts at 0, every weight at 1.
    Give it to the optimizer beside the network's parameters, without weight decay.
    """

    def __init__(self, tasks: int = len(TASKS)) -> None:
        super().__init__()
        if tasks < 1:
            raise ValueError(f"tasks={tasks}: must be at least 1")
        self.log_variance = nn.Parameter(torch.zeros(tasks))

    def forward(self, losses: Float[Tensor, " tasks"]) -> Float[Tensor, ""]:
        """The weighted sum of the tasks' losses, and the price of a large variance."""
        return (torch.exp(-self.log_variance) * losses + 0.5 * self.log_variance).sum()


def uncertainty_weighting(tasks: int = len(TASKS)) -> UncertaintyWeighting:
    """Learnt weights for so many tasks."""
    return UncertaintyWeighting(tasks)


def pcgrad(
    losses: Sequence[Tensor], shared: Iterable[nn.Parameter], heads: Sequence[Iterable[nn.Parameter]] | None = None
) -> None:
    """Project the tasks' gradients on shared parameters where they contradict each other (Yu et al. 2020).

    TorchJD computes them. Their projected sum is added to ``grad`` of ``shared``, each head's own gradient to that of
    its parameters.

    ``losses`` are scalars, one per task; ``heads`` gives each task's own parameters, in the order of the losses; None
    where there are none. The order in which a task meets the others is drawn from torch's generator. Raises ValueError
    where the numbers of losses and heads differ, or no loss is given.
    """
    from torchjd.aggregation import PCGrad
    from torchjd.autojac import backward, jac_to_grad

    tensors, trunk = list(losses), list(shared)
    own = [list(parameters) for parameters in heads] if heads is not None else [[] for _ in tensors]
    if not tensors or len(own) != len(tensors):
        raise ValueError(f"{len(tensors)} losses and {len(own)} heads: expected one head for each loss, and a loss")
    for loss, parameters in zip(tensors, own, strict=True):
        if not parameters:
            continue
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    backward(tensors, inputs=trunk, parallel_chunk_size=1)  # one by one: vmap refuses some backward passes
    jac_to_grad(trunk, PCGrad())


def _labelled(task: str, output: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if mask is None:
        return output, target
    if mask.dtype != torch.bool or mask.shape != output.shape[:1]:
        raise ValueError(
            f"mask of {task}: {tuple(mask.shape)} of {mask.dtype}; expected ({len(output)},) of torch.bool, True where "
            "the label is there"
        )
    return output[mask], target[mask]


def _class_loss(logits: Float[Tensor, "n classes"], classes: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"class {low if low < 0 else high} is out of range: there are {logits.shape[1]} classes, from 0"
        )
    return F.cross_entropy(logits, classes)
