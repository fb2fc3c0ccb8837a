"""Memory predicted by kind without running, and the largest batch that fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil
import torch
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType

from harness.measure.workload import Batch, Training, Workload, random_batch, weightless

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


MOST = 8192
"""Images beyond which nobody asks."""
SHARE = 0.8
"""Of the memory that is free; on a CPU the rest is the operating system's, which kills rather than refuses."""

Fits = Callable[[int], str]
"""Why a batch of that size doesn't fit; "" where it does."""


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The largest batch that fits, 0 where not even one image does, and every size that was tried."""

    size: int
    tries: tuple[tuple[int, str], ...]
    """(batch size, why it doesn't fit or "")."""


def largest_batch(fits: Fits, most: int = MOST) -> Largest:
    """Double from one image until a batch doesn't fit, then bisect to the last that does."""
    tries: list[tuple[int, str]] = []

    def ask(size: int) -> bool:
        tries.append((size, fits(size)))
        return not tries[-1][1]

    low, high = 0, 1
    while high <= most and ask(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ask(middle) else (low, middle)
    return Largest(size=low, tries=tuple(tries))


def fitting(work: Workload) -> Fits:
    """Whether a batch fits beside what is there: tried on a GPU, predicted on a CPU.

    A CPU's allocator promises more than there is, and the process is killed when it uses it: nothing to try out.
    """
    images = work.batch.images
    if images.device.type == "cpu":
        line = growth(work, predict(work))
        free = SHARE * psutil.virtual_memory().available

        def predicted(size: int) -> str:
            needed = line.fixed + size * line.per_image
            return "" if needed <= free else f"needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB may be used"

        return predicted

    def tried(size: int) -> str:
        form = torch.contiguous_format if images.is_contiguous() else torch.channels_last
        batch: Batch | None = None
        attempt: Workload | None = None
        try:
            batch = random_batch(size, images.shape[-1], images.device, memory_format=form)
            attempt = work.on(work.model, batch)
            for _ in range(2):  # the second step has the optimizer's state
                attempt()
            torch.cuda.synchronize(images.device)
        except torch.OutOfMemoryError as error:
            return str(error).partition(". ")[0]
        finally:
            del batch, attempt
            for parameter in work.model.parameters():
                parameter.grad = None
            torch.cuda.empty_cache()
        return ""

    return tried
