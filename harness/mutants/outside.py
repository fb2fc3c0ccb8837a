"""Faulty variants that show in another process, on another device, late in training, or with norms frozen."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.evidence import Pair, difference
from harness.mutants.mutant import mutant
from harness.mutants.specimens import RESNET12, resnet12
from harness.mutants.surgery import Around, become, of_type


class FreezingNorm(nn.BatchNorm2d):
    """Stops at its hundredth batch."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None and int(self.num_batches_tracked) >= 100:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def _late(pair: Pair) -> float:
    outputs = []
    for model in pair.filled():
        for _, norm in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]:
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.fill_(1000)
        with torch.no_grad():
            outputs.append(model.train()(pair.images()))
    return difference(outputs[1], outputs[0])


@mutant(
    RESNET12,
    "From its hundredth batch on a BatchNorm uses and keeps its running statistics, in train mode too",
    check="parity_train",
    category="training",
    evidence=_late,
)
def norms_stop_after_a_hundred_batches(model: Any) -> nn.Module:
    for _, norm in of_type(model, nn.BatchNorm2d):
        become(norm, FreezingNorm)
    return model


class HalfFrozenNorm(nn.BatchNorm2d):
    """In eval mode keeps its statistics, and normalises with the batch's where the network trains."""

    network: tuple[nn.Module, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.network[0].training:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(x)


def _frozen_norms(pair: Pair) -> float:
    outputs = []
    for model in pair.filled():
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        with torch.no_grad():
            outputs.append(model(pair.images()))
    return difference(outputs[1], outputs[0])


@mutant(
    RESNET12,
    "Norms that are frozen by eval() keep their statistics, but go on normalising by the batch's while the rest trains",
    check="mode_switch",
    category="training",
    evidence=_frozen_norms,
)
def frozen_norms_use_the_batch(model: Any) -> nn.Module:
    for _, norm in of_type(model, nn.BatchNorm2d):
        become(norm, HalfFrozenNorm).__dict__["network"] = (model,)
    return model


class HalfOnGpu(nn.Linear):
    """Multiplies in float16 where it lies on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return F.linear(x.half(), self.weight.half(), self.bias.half()).float()
        return super().forward(x)


def _lowered(pair: Pair) -> float:
    """Whether the head's operations on a fake GPU give float16."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = pair.faulty(10)
    seen = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to("cuda")
        logits = model(torch.zeros(2, 3, 64, 64, device="cuda"))
        node = logits.grad_fn
        while node is not None:
            seen.append(type(node).__name__)
            node = node.next_functions[0][0] if node.next_functions else None
    return float("ToCopyBackward0" in seen)


@mutant(
    RESNET12,
    "On a GPU, and there alone, the head multiplies in float16 where float32 was asked for",
    check="device",
    category="precision",
    evidence=_lowered,
)
def half_on_the_gpu(model: Any) -> nn.Module:
    become(model.head, HalfOnGpu)
    return model


class Rebuilt(Around):
    """Reads itself from a pickle as a new network."""

    def __reduce__(self) -> Any:
        return Rebuilt, (resnet12(10),)

    def __deepcopy__(self, memo: Any) -> Rebuilt:
        import copy

        return Rebuilt(copy.deepcopy(self.net, memo))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


def _pickled(pair: Pair) -> float:
    import pickle

    _, faulty = pair.filled()
    return difference(pickle.loads(pickle.dumps(faulty)).double().eval()(pair.images()), faulty(pair.images()))


@mutant(
    RESNET12,
    "Pickled, as torch.save does it, the network leaves its weights behind and is read as a new one",
    check="state_dict_round_trip",
    category="state",
    evidence=_pickled,
)
def pickled_without_weights(model: Any) -> nn.Module:
    return Rebuilt(model)


class HalfBias(Around):
    """Adds a bias of float16."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        net.head.bias = nn.Parameter(net.head.bias.detach().half())

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.net
        x = net.stem(x)
        for stage in net.stages:
            x = stage(x)
        logits: Tensor = F.linear(net.pool(x).flatten(1), net.head.weight) + net.head.bias
        return logits


@mutant(
    RESNET12,
    "One parameter is built in float16 among others of float32: sharded training refuses the mixture",
    check="parameters",
    category="precision",
    evidence=lambda pair: float(len({p.dtype for p in pair.faulty(10).parameters()}) - 1),
)
def one_parameter_in_half_precision(model: Any) -> nn.Module:
    return HalfBias(model)


def _changed(read: Any) -> Any:
    def measure(pair: Pair) -> float:
        before = read()
        pair.faulty(10)
        return float(before != read())

    return measure


@mutant(
    RESNET12,
    "Building the model decides which GPUs the process sees",
    check="global_state",
    category="state",
    evidence=_changed(lambda: os.environ.get("CUDA_VISIBLE_DEVICES")),
)
def gpu_chosen_when_built(model: Any) -> nn.Module:
    os.environ["CUDA_VISIBLE_DEVICES"] = "17"
    return model


@mutant(
    RESNET12,
    "Building the model makes NumPy silent about overflow and invalid numbers",
    check="global_state",
    category="state",
    evidence=_changed(np.geterr),
)
def numpy_silenced(model: Any) -> nn.Module:
    np.seterr(all="ignore")
    return model


def _deaf(number: int, frame: Any) -> None:
    """Does nothing about an interrupt."""


@mutant(
    RESNET12,
    "Building the model installs a handler that ignores interrupts",
    check="global_state",
    category="state",
    evidence=_changed(lambda: signal.getsignal(signal.SIGINT)),
)
def interrupts_ignored(model: Any) -> nn.Module:
    signal.signal(signal.SIGINT, _deaf)  # SIG_IGN is what a process in the background may have already
    return model
