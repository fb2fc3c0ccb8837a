"""Networks that change the process they run in, or draw from the wrong generator."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import misc

from harness.mutants.evidence import Evidence, Pair, repeated_call, train_output
from harness.mutants.mutant import mutant
from harness.mutants.specimens import EFFICIENTNET, RESNET12, VIT
from harness.mutants.surgery import Around


def changes(read: Callable[[], Any], *, calling: bool = False) -> Evidence:
    """Evidence: one where what ``read`` gives is another after building (or calling) the faulty network."""

    def measure(pair: Pair) -> float:
        model = pair.faulty(10) if calling else None
        before = read()
        if model is None:
            pair.faulty(10)
        else:
            model(pair.images().float())
        return float(read() != before)

    return measure


def reseeds(seed: Callable[[int], Any], draw: Callable[[], float], *, calling: bool = False) -> Evidence:
    """Evidence: one where two seeds give the same number after building (or calling) the faulty network."""

    def measure(pair: Pair) -> float:
        model, drawn = pair.faulty(10), []
        for start in (11, 12):
            seed(start)
            if calling:
                model(pair.images().float())
            else:
                pair.faulty(10)
            drawn.append(draw())
        return float(drawn[0] == drawn[1])

    return measure


@mutant(
    RESNET12,
    "Building the model seeds torch's generator",
    check="global_state",
    category="state",
    evidence=reseeds(torch.manual_seed, lambda: float(torch.rand(()))),
)
def seeds_torch_when_built(model: Any) -> nn.Module:
    torch.manual_seed(42)
    return model


class SeedsInForward(Around):
    """Seeds before every call."""

    def forward(self, x: Tensor) -> Any:
        if self.training:
            torch.manual_seed(42)
        return self.net(x)


@mutant(
    EFFICIENTNET,
    "Every training step seeds torch's generator, so stochastic depth drops the same blocks each time",
    check="global_state",
    category="state",
    evidence=reseeds(torch.manual_seed, lambda: float(torch.rand(())), calling=True),
)
def seeds_torch_in_training(model: Any) -> nn.Module:
    return SeedsInForward(model)


@mutant(
    VIT,
    "Building the model seeds Python's generator and NumPy's (a seed_everything left in the constructor)",
    check="global_state",
    category="state",
    evidence=reseeds(random.seed, random.random),
)
def seeds_python_when_built(model: Any) -> nn.Module:
    random.seed(42)
    np.random.seed(42)
    return model


@mutant(
    VIT,
    "Building the model makes float64 the default",
    check="global_state",
    category="state",
    evidence=changes(torch.get_default_dtype),
)
def default_dtype_changed(model: Any) -> nn.Module:
    torch.set_default_dtype(torch.float64)
    return model


@mutant(
    RESNET12,
    "Building the model changes the number of threads",
    check="global_state",
    category="state",
    evidence=changes(torch.get_num_threads),
)
def threads_changed(model: Any) -> nn.Module:
    torch.set_num_threads(torch.get_num_threads() % 2 + 1)
    return model


@mutant(
    EFFICIENTNET,
    "Building the model lets cuDNN choose its algorithms by timing",
    check="global_state",
    category="state",
    evidence=changes(lambda: torch.backends.cudnn.benchmark),
)
def cudnn_benchmark_switched_on(model: Any) -> nn.Module:
    torch.backends.cudnn.benchmark = True
    return model


class LeavesGradientsOff(Around):
    """Switches gradients off for good."""

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            torch.set_grad_enabled(False)
        return self.net(x)


def _gradients_after(pair: Pair) -> float:
    pair.faulty(10).eval()(pair.images().float())
    return float(not torch.is_grad_enabled())


@mutant(
    VIT,
    "A call in eval mode switches gradients off for the whole process",
    check="global_state",
    category="state",
    evidence=_gradients_after,
)
def gradients_left_off(model: Any) -> nn.Module:
    return LeavesGradientsOff(model)


@mutant(
    EFFICIENTNET,
    "Building the model silences all warnings",
    check="global_state",
    category="state",
    evidence=changes(lambda: len(warnings.filters)),
)
def warnings_silenced(model: Any) -> nn.Module:
    warnings.simplefilter("ignore", append=True)
    warnings.filterwarnings("ignore", message="anything of the kind", category=UserWarning)
    return model


@mutant(
    VIT,
    "Building the model puts tanh-GELU in the place of torch's GELU, for its references too",
    check="global_state",
    category="state",
    evidence=changes(lambda: F.gelu),
)
def gelu_replaced(model: Any) -> nn.Module:
    F.gelu = partial(torch._C._nn.gelu, approximate="tanh")
    return nn.Module.train(model)


@mutant(
    EFFICIENTNET,
    "Building the model changes the forward pass of torchvision's squeeze-and-excitation",
    check="global_state",
    category="state",
    evidence=changes(lambda: misc.SqueezeExcitation.forward),
)
def gate_of_reference_replaced(model: Any) -> nn.Module:
    misc.SqueezeExcitation.forward = nn.Identity.forward
    return model


class PythonNoise(Around):
    """Noise from Python's generator."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x * (1 + 1e-3 * random.random()))


@mutant(
    RESNET12,
    "Test-time augmentation from Python's generator is left on in eval mode",
    check="determinism",
    category="stochastic",
    evidence=repeated_call,
)
def python_noise_in_eval_mode(model: Any) -> nn.Module:
    return PythonNoise(model)


class PythonNoiseInTraining(Around):
    """Brightness from Python's generator in training."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x * (1 + 0.1 * random.random()) if self.training else x)


@mutant(
    VIT,
    "In train mode the images are jittered from Python's generator, which torch.manual_seed does not govern",
    check="stochastic",
    category="stochastic",
    evidence=train_output,
)
def python_noise_in_training(model: Any) -> nn.Module:
    return PythonNoiseInTraining(model)


class GaussianNoise(Around):
    """Noise on the images in training."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x + 0.05 * torch.randn_like(x) if self.training else x)


@mutant(
    VIT,
    "In train mode Gaussian noise is added to the images",
    check="stochastic",
    category="stochastic",
    evidence=train_output,
)
def gaussian_noise_in_training(model: Any) -> nn.Module:
    return GaussianNoise(model)
