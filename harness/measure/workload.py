"""What is timed: inference on a batch, and a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.outputs import logits_of
from harness.records import Mode

CLASSES = 1000
CHANNELS = 3
LEARNING_RATE = 1e-4
"""Small, so that hundreds of steps on one batch neither diverge nor drive gradients into slow subnormal numbers."""
MOMENTUM = 0.9
BATCH_SIZES = {("cpu", "infer"): 4, ("cpu", "train"): 2, ("cuda", "infer"): 32, ("cuda", "train"): 32}
"""On a GPU, a batch that fills it. On a CPU, the least that is still a batch: throughput of convolutions hardly grows
beyond it there, and a short round buys more rounds, which is what narrows the interval of the ratio."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``images`` (batch, 3, side, side), float32, contiguous; ``labels`` (batch,)."""

    images: Tensor
    labels: Tensor

    @property
    def size(self) -> int:
        """Images in it."""
        return len(self.images)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch elsewhere."""
        return Batch(images=self.images.to(device), labels=self.labels.to(device))


def random_batch(size: int, side: int, device: torch.device | str = "cpu", seed: int = 0) -> Batch:
    """Standard normal images and uniform labels, drawn on the CPU from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((size, CHANNELS, side, side), generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return Batch(images=images, labels=labels).to(device)


class Inference:
    """Forward pass in eval mode under `torch.inference_mode`."""

    optimizer: torch.optim.Optimizer | None = None

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model = model.eval()
        self.batch = batch

    def __call__(self) -> None:
        """One pass; the output is let go."""
        with torch.inference_mode():
            self.model(self.batch.images)


class Training:
    """Forward pass, cross-entropy, backward pass, SGD step with momentum, gradients let go."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model = model.train()
        self.batch = batch
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def loss(self) -> Tensor:
        """Cross-entropy of the batch."""
        return cross_entropy(logits(self.model(self.batch.images)), self.batch.labels)

    def __call__(self) -> None:
        """One step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


Workload = Inference | Training
WORKLOADS: dict[Mode, Callable[[nn.Module, Batch], Workload]] = {"infer": Inference, "train": Training}


def logits(output: Any) -> Tensor:
    """The logits in what a model returned; raises TypeError where there are none."""
    return output if isinstance(output, Tensor) else logits_of(output, CLASSES)


def liven(model: nn.Module, seed: int = 0) -> None:
    """Give values to weights that start at zero (last norms of residual branches, heads), in place.

    Multiplying zeros draws less power and runs at higher clocks on a GPU: two libraries that start differently would
    be compared on different work.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
