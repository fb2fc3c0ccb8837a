"""Multi-task networks and losses that go wrong at the limits: sure answers, large variances, zeros, other states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.mutants.evidence import Pair
from harness.mutants.multitask_network import Altered
from harness.mutants.mutant import instead, mutant
from harness.mutants.process import changes
from harness.mutants.recipes import LOSS, NETWORK, WEIGHTING, multitask_resnet12
from harness.mutants.surgery import become
from suites.multitask.model import Outputs, UncertaintyWeighting, multitask_loss


def _arguments(scale: float, dtype: torch.dtype) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(3, w, generator=generator).to(dtype) for w in (10, 4, 128)]
    outputs[0] *= scale
    targets = (torch.tensor([1, 2, 3]), *(torch.randn(3, w, generator=generator).to(dtype) for w in (4, 128)))
    return outputs, targets


def _overflow(pair: Pair) -> float:
    """One where only the faulty loss overflows for class logits around a hundred, in float32."""
    finite = [bool(loss(*_arguments(100.0, torch.float32)).isfinite()) for loss in (pair.correct, pair.faulty)]
    return float(finite == [True, False])


@instead(
    LOSS,
    "Cross-entropy is the logarithm of a sum of exponentials, which overflows at logits of 89",
    check="loss_value",
    category="precision",
    evidence=_overflow,
)
def sum_of_exponentials(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], masks: Any = None, *, weights: Any = (1.0, 0.5, 0.2)
) -> Tensor:
    rest = multitask_loss(outputs, targets, masks, weights=(0.0, *tuple(weights)[1:]))
    if masks is not None and not bool(masks[0].any()):
        return rest + outputs[0].sum() * 0.0
    logits, classes = (t if masks is None else t[masks[0]] for t in (outputs[0], targets[0]))
    entropy = (logits.exp().sum(1).log() - logits.gather(1, classes[:, None])[:, 0]).mean()
    return rest + weights[0] * entropy


def _wider(pair: Pair) -> float:
    """One where float32 outputs give a loss of another dtype."""
    return float(pair.faulty(*_arguments(1.0, torch.float32)).dtype is not torch.float32)


@instead(
    LOSS, "The loss is float64 whatever the outputs are", check="loss_value", category="precision", evidence=_wider
)
def always_float64(outputs: Sequence[Tensor], targets: Sequence[Tensor], masks: Any = None, **keywords: Any) -> Tensor:
    return multitask_loss([o.double() for o in outputs], targets, masks, **keywords)


class Clamped(UncertaintyWeighting):
    """Log-variances between -3 and 3."""

    def forward(self, losses: Tensor) -> Tensor:
        kept = self.log_variance.clamp(-3.0, 3.0)
        return (torch.exp(-kept) * losses + 0.5 * kept).sum()


def _at_four(pair: Pair) -> float:
    values = []
    for build in (pair.correct, pair.faulty):
        module = build(3)
        nn.init.constant_(next(module.parameters()), 4.0)
        values.append(module(torch.ones(3)).item())
    return abs(values[1] - values[0])


@mutant(
    WEIGHTING,
    "Log-variances are clamped to +-3: tasks twenty times as noisy as others can't be told",
    check="weighted_sum",
    category="training",
    evidence=_at_four,
)
def log_variances_clamped(module: Any) -> nn.Module:
    return become(module, Clamped)


class Lenient(Altered):
    """Takes any state."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def _taken(pair: Pair) -> float:
    try:
        pair.faulty().load_state_dict({})
    except RuntimeError:
        return 0.0
    return 1.0


@mutant(
    NETWORK,
    "load_state_dict is never strict: an empty state is taken, and nothing said",
    check="task_memory",
    category="state",
    evidence=_taken,
)
def loading_is_lenient(model: Any) -> nn.Module:
    return become(model, Lenient)


class Unguarded(Altered):
    """Divides the embedding by its length, whatever that is."""

    def forward(self, images: Tensor) -> Outputs:
        h = self.backbone(images)
        embedding = self.embedding(h)
        return Outputs(self.classes(h), self.box(h), embedding / embedding.norm(dim=1, keepdim=True))


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
def embedding_without_guard(model: Any) -> nn.Module:
    return become(model, Unguarded)


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
