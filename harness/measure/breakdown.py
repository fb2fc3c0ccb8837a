"""What the memory of a step is made of, predicted on tensors without storage, and the batch that would fill it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType

from harness.measure.weightless import weightless
from harness.measure.workload import Training, Workload

KINDS = {
    _MemRefType.PARAM: "parameters",
    _MemRefType.BUFFER: "buffers",
    _MemRefType.GRAD: "gradients",
    _MemRefType.OPT: "optimizer_state",
    _MemRefType.ACT: "activations",
    _MemRefType.TEMP: "temporaries",
    _MemRefType.OTH: "batch",
}
"""torch's names -> ours. Temporaries live during the backward pass only, gradients of activations among them."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Bytes at the peak of one step, what is resident between steps included."""

    total: int
    kinds: Mapping[str, int]
    """See `KINDS`; they add up to the total."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How memory grows with the batch: ``fixed + images * per_image`` bytes."""

    fixed: float
    per_image: float

    def largest_batch(self, memory: float) -> int:
        """Images that ``memory`` bytes have room for; 0 where not even one."""
        return max(0, int((memory - self.fixed) // self.per_image)) if self.per_image > 0 else 0


def predict(work: Workload, batch_size: int | None = None) -> Prediction:
    """Peak memory of a step of ``work``, without doing it: every tensor's storage while it is alive, to the byte.

    Scratch space inside of operators isn't seen, nor is what an allocator rounds up. Raises whatever a model raises
    that can't run on fake tensors.
    """
    with weightless(work, batch_size) as fake:
        tracker = MemTracker()
        tracked: list[torch.nn.Module | torch.optim.Optimizer | torch.Tensor] = [fake.model]
        if isinstance(fake, Training):
            _fill_state(fake)
            tracked.append(fake.optimizer)
        tracker.track_external(*tracked, fake.batch.images, fake.batch.labels)
        with tracker:
            if isinstance(fake, Training):
                fake.loss().backward()
                fake.optimizer.step()
            else:
                fake()
        peaks = tracker.get_tracker_snapshot("peak")
    sums = {name: sum(snapshot.get(kind, 0) for snapshot in peaks.values()) for kind, name in KINDS.items()}
    return Prediction(total=sum(sums.values()), kinds=sums)


def growth(work: Workload, known: Prediction) -> Growth:
    """Fixed and per-image bytes, from ``known`` (the prediction at the workload's own batch) and one at twice that."""
    size = work.batch.size
    per_image = (predict(work, 2 * size).total - known.total) / size
    return Growth(fixed=known.total - size * per_image, per_image=per_image)


def _fill_state(work: Training) -> None:
    """Let the optimizer have the state that it has from its second step on."""
    for parameter in work.model.parameters():
        parameter.grad = torch.empty_like(parameter)
    work.optimizer.step()
    work.optimizer.zero_grad(set_to_none=True)
