"""The largest batch that fits, found by doubling and bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from harness.measure.breakdown import growth, predict
from harness.measure.workload import Batch, Workload, random_batch

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
