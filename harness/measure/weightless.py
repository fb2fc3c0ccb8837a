"""A workload on tensors that have shapes, dtypes and a device, but no storage."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.measure.workload import Batch, Workload


@contextmanager
def weightless(work: Workload, batch_size: int | None = None) -> Iterator[Workload]:
    """``work`` on fake tensors, for as long as the context lasts; with another batch size if one is given.

    Unlike the meta device, fake tensors keep the device's name, so that autocast and device checks act as they would.
    """
    mode = FakeTensorMode()
    model = _faked(work.model, mode)
    images, labels = work.batch.images, work.batch.labels
    size = work.batch.size if batch_size is None else batch_size
    with mode:
        form = torch.contiguous_format if images.is_contiguous() else torch.channels_last
        shape = (size, *images.shape[1:])
        fake = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=form)
        targets = torch.empty((size,), dtype=labels.dtype, device=labels.device)
        yield work.on(model, Batch(images=fake, labels=targets))


def _faked(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy of the model whose parameters and buffers are fake; one that is shared stays shared."""
    known: dict[int, Tensor] = {}
    copied = copy.deepcopy(model)
    for module in copied.modules():
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in known:
                    known[id(tensor)] = _storeless(tensor, mode)
                store[name] = known[id(tensor)]
    return copied


def _storeless(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        fake = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return nn.Parameter(fake, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
