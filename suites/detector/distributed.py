"""The processes that ``torchrun`` started, or the only one that there is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from harness.process.hardware import device_named

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Which of how many, and the device of this one. With one process nothing here communicates."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes files and to the terminal."""
        return self.rank == 0

    def highest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return number
        shared = torch.tensor(number, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def mean(self, number: float) -> float:
        """The mean of all processes' numbers."""
        if self.size == 1:
            return number
        shared = torch.tensor(number, dtype=torch.float64, device=self.device)
        dist.all_reduce(shared)
        return float(shared) / self.size

    def gathered(self, items: Sequence[T]) -> list[T]:
        """All processes' items, in the first process; nothing in the others."""
        if self.size == 1:
            return list(items)
        parts: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(list(items), parts)
        return [item for part in parts or () for item in part]

    def of_first(self, thing: T) -> T:
        """What the first process has."""
        if self.size == 1:
            return thing
        shared = [thing]
        dist.broadcast_object_list(shared)
        return shared[0]

    def wrapped(self, model: nn.Module) -> nn.Module:
        """With gradients averaged over the processes. On GPUs BatchNorm takes its statistics from all of them too."""
        if self.size == 1:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            return DistributedDataParallel(model, device_ids=[self.device.index])
        return DistributedDataParallel(model)


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """As ``torchrun`` says in the environment: gloo on CPUs; NCCL on GPUs, of which each process takes its own.

    Raises RequestError for a device that is not there.
    """
    device = device_named(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes(device=torch.device(device))
        return
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(device=place, rank=dist.get_rank(), size=size)
    finally:
        dist.destroy_process_group()
