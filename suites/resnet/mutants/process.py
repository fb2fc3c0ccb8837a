"""ResNets that change the process around them, keep state between calls, or leave work out."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.mutants.operators import CachedByShape, around, forward_of
from harness.mutants.probe import Pair, difference, output
from harness.mutants.state_probe import changes, input_change, repeated_call, reseeds, second_call
from harness.mutants.variant import Around, become, mutant, process_fault, saving_fault
from suites.resnet.model import BasicBlock
from suites.resnet.mutants.base_models import RESNET12, resnet12


@mutant(
    RESNET12,
    "The images are normalised in place",
    check="input_untouched",
    category="state",
    evidence=input_change,
)
@around
def input_normalised_in_place(self: Any, x: Tensor) -> Any:
    with torch.no_grad():
        x.data.sub_(0.01)
    return self.net(x)


@mutant(
    RESNET12,
    "Running statistics move in eval mode too",
    check="mode_switch",
    category="state",
    evidence=repeated_call,
)
@forward_of("stages.0.0.norm1")
def statistics_move_in_eval_mode(self: Any, input: Tensor) -> Tensor:
    out = nn.BatchNorm2d.forward(self, input)
    if not self.training:
        assert self.running_mean is not None
        with torch.no_grad():
            self.running_mean = torch.lerp(self.running_mean, input.mean((0, 2, 3)), 1e-3)
    return out


class FoldedOnce(nn.BatchNorm2d):
    """On `eval()` works out scale and shift, and uses them until the next `eval()`."""

    def train(self, mode: bool = True) -> FoldedOnce:
        super().train(mode)
        if not mode:
            assert self.running_var is not None
            assert self.running_mean is not None
            self.scale = (self.weight * (self.running_var + self.eps) ** -0.5).detach()
            self.shift = (self.bias - self.running_mean * self.scale).detach()
        return self

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        return input * self.scale.to(input)[:, None, None] + self.shift.to(input)[:, None, None]


@mutant(
    RESNET12,
    "eval() folds a norm into constants that loading weights afterwards does not renew",
    check="mode_switch",
    category="state",
    evidence=output,
)
def folded_norm_goes_stale(model: Any) -> nn.Module:
    become(model.stages[1][0].norm2, FoldedOnce)
    return model


@mutant(
    RESNET12,
    "In inference the logits come from a cache by shape",
    check="no_cache",
    category="shortcut computing",
    evidence=second_call,
)
def cached_by_shape(model: Any) -> nn.Module:
    return CachedByShape(model)


@mutant(
    RESNET12,
    "A block is skipped in eval mode",
    check="parity_eval",
    category="shortcut computing",
)
@forward_of("stages.0.1")
def block_skipped_in_eval_mode(self: Any, x: Tensor) -> Tensor:
    return BasicBlock.forward(self, x) if self.training else x


@process_fault(
    RESNET12,
    "Building the model seeds torch's generator",
    evidence=reseeds(torch.manual_seed, lambda: float(torch.rand(()))),
)
def seeds_torch_when_built(model: Any) -> nn.Module:
    torch.manual_seed(42)
    return model


@process_fault(RESNET12, "Building the model changes the number of threads", evidence=changes(torch.get_num_threads))
def threads_changed(model: Any) -> nn.Module:
    torch.set_num_threads(torch.get_num_threads() % 2 + 1)
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


@saving_fault(
    RESNET12,
    "Pickled, as torch.save does it, the network leaves its weights behind and is read as a new one",
    evidence=_pickled,
)
def pickled_without_weights(model: Any) -> nn.Module:
    return Rebuilt(model)


@process_fault(
    RESNET12,
    "Building the model decides which GPUs the process sees",
    evidence=changes(lambda: os.environ.get("CUDA_VISIBLE_DEVICES")),
)
def gpu_chosen_when_built(model: Any) -> nn.Module:
    os.environ["CUDA_VISIBLE_DEVICES"] = "17"
    return model


@process_fault(
    RESNET12, "Building the model makes NumPy silent about overflow and invalid numbers", evidence=changes(np.geterr)
)
def numpy_silenced(model: Any) -> nn.Module:
    np.seterr(all="ignore")
    return model


def _deaf(number: int, frame: Any) -> None:
    """Does nothing about an interrupt."""


@process_fault(
    RESNET12,
    "Building the model installs a handler that ignores interrupts",
    evidence=changes(lambda: signal.getsignal(signal.SIGINT)),
)
def interrupts_ignored(model: Any) -> nn.Module:
    signal.signal(signal.SIGINT, _deaf)  # SIG_IGN is what a process in the background may have already
    return model
