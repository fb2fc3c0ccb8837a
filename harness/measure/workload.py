"""What is timed: inference on a batch, and a training step.

A workload on tensors that have shapes, dtypes and a device, but no storage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from harness.records.schema import Mode
from harness.subjects.outputs import logits_of

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

    def renew(self) -> None:
        """Other images in the same memory: a model that answers from a cache answers wrongly, or not at all."""
        self.images.copy_(self.images.roll(1, dims=-1))


def random_batch(
    size: int,
    side: int,
    device: torch.device | str = "cpu",
    seed: int = 0,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Batch:
    """Standard normal images and uniform labels, drawn on the CPU from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((size, CHANNELS, side, side), generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return Batch(images=images.contiguous(memory_format=memory_format), labels=labels).to(device)


class _Step:
    """What `Inference` and `Training` share: a model on a batch, under autocast where ``dtype`` isn't float32.

    ``run`` is what a step calls, where that isn't the model itself but what `torch.compile` made of it.
    """

    training: ClassVar[bool]

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        dtype: torch.dtype = torch.float32,
        run: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.model = model.train() if self.training else model.eval()
        self.batch = batch
        self.dtype = dtype
        self.run = model if run is None else run  # what is compiled has no truth value of its own

    def on(self, model: nn.Module, batch: Batch, dtype: torch.dtype | None = None) -> Self:
        """The same work on another model and batch, not compiled."""
        return type(self)(model, batch, self.dtype if dtype is None else dtype)


class Inference(_Step):
    """Forward pass in eval mode under `torch.inference_mode`."""

    training = False
    optimizer: torch.optim.Optimizer | None = None

    def output(self) -> Tensor:
        """The logits of one forward pass, (batch, classes)."""
        with torch.inference_mode(), casting(self.batch, self.dtype):
            return logits(self.run(self.batch.images))

    def __call__(self) -> None:
        """One pass; the output is let go."""
        with torch.inference_mode(), casting(self.batch, self.dtype):
            self.run(self.batch.images)


class Training(_Step):
    """Forward pass, cross-entropy, backward pass, SGD step with momentum; gradients are freed.

    Autocast covers the forward pass and the loss; float16 gradients are scaled.
    """

    training = True

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        dtype: torch.dtype = torch.float32,
        run: Callable[[Tensor], Any] | None = None,
    ) -> None:
        super().__init__(model, batch, dtype, run)
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        self._scaler = torch.amp.GradScaler(batch.images.device.type) if dtype is torch.float16 else None

    def output(self) -> Tensor:
        """The logits of one forward pass, (batch, classes), without a graph."""
        # Not under no_grad, for which a compiled model would be compiled once more.
        with casting(self.batch, self.dtype):
            return logits(self.run(self.batch.images)).detach()

    def loss(self) -> Tensor:
        """Cross-entropy of the batch."""
        with casting(self.batch, self.dtype):
            return cross_entropy(logits(self.run(self.batch.images)), self.batch.labels)

    def __call__(self) -> None:
        """One step."""
        if self._scaler is None:
            self.loss().backward()
            self.optimizer.step()
        else:
            self._scaler.scale(self.loss()).backward()
            self._scaler.step(self.optimizer)
            self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


Workload = Inference | Training
WORKLOADS: dict[Mode, type[Inference] | type[Training]] = {"infer": Inference, "train": Training}


def casting(batch: Batch, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to ``dtype`` on the batch's device; nothing for float32."""
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(batch.images.device.type, dtype=dtype)


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
