"""EfficientNets with a fault in their state, or that compute from a cache."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import misc

from harness.mutants.operators import around, layer_at, method_of
from harness.mutants.probe import CLASSES, Pair, difference, forward, output
from harness.mutants.state_probe import changes, reloaded, reseeds
from harness.mutants.variant import Around, become, mutant, of_type, process_fault, saving_fault
from suites.efficientnet.model import EfficientNet, StochasticDepth
from suites.efficientnet.mutants.base_models import EFFICIENTNET


class OneBuffer(Around):
    """Writes all logits of a shape into one tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        if logits.requires_grad or self.training:
            return logits
        if self.kept is None or self.kept.shape != logits.shape or self.kept.dtype != logits.dtype:
            self.kept = torch.empty_like(logits)
        return self.kept.copy_(logits)


def _first_after_second(pair: Pair) -> float:
    _, faulty = pair.filled()
    with torch.no_grad():
        first = faulty(pair.images())
        kept = first.clone()
        faulty(2 * pair.images())
    return difference(first, kept)


@mutant(
    EFFICIENTNET,
    "Every call returns the same output buffer, so a second call overwrites the first one's logits",
    check="no_cache",
    category="state",
    evidence=_first_after_second,
)
def output_buffer_reused(model: Any) -> nn.Module:
    return OneBuffer(model)


@saving_fault(EFFICIENTNET, "load_state_dict silently keeps the head as it was initialised", evidence=reloaded)
@method_of("_load_from_state_dict", "classifier")
def head_not_loaded(self: Any, *args: Any, **keywords: Any) -> None:
    return


@mutant(
    EFFICIENTNET,
    "Where no gradient is recorded the images are halved first",
    check="mode_switch",
    category="shortcut computing",
    evidence=output,
)
@around
def cheaper_without_gradients(self: Any, x: Tensor) -> Any:
    if not self.training and not torch.is_grad_enabled():
        x = F.interpolate(F.avg_pool2d(x, 2), x.shape[2:], mode="nearest")
    return self.net(x)


@mutant(
    EFFICIENTNET,
    "The global pooling looks at every other pixel only",
    check="parity_sizes",
    category="shortcut computing",
    evidence=output,
)
@layer_at("pool")
def pooling_of_every_other_pixel(self: Any, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x[:, :, ::2, ::2], 1)


@process_fault(
    EFFICIENTNET,
    "Every training step seeds torch's generator, so stochastic depth drops the same blocks each time",
    evidence=reseeds(torch.manual_seed, lambda: float(torch.rand(())), calling=True),
)
@around
def seeds_torch_in_training(self: Any, x: Tensor) -> Any:
    if self.training:
        torch.manual_seed(42)
    return self.net(x)


@process_fault(
    EFFICIENTNET,
    "Building the model lets cuDNN choose its algorithms by timing",
    evidence=changes(lambda: torch.backends.cudnn.benchmark),
)
def cudnn_benchmark_switched_on(model: Any) -> nn.Module:
    torch.backends.cudnn.benchmark = True
    return model


@process_fault(
    EFFICIENTNET, "Building the model silences all warnings", evidence=changes(lambda: len(warnings.filters))
)
def warnings_silenced(model: Any) -> nn.Module:
    warnings.simplefilter("ignore", append=True)
    warnings.filterwarnings("ignore", message="anything of the kind", category=UserWarning)
    return model


@process_fault(
    EFFICIENTNET,
    "Building the model changes the forward pass of torchvision's squeeze-and-excitation",
    evidence=changes(lambda: misc.SqueezeExcitation.forward),
)
def gate_of_reference_replaced(model: Any) -> nn.Module:
    misc.SqueezeExcitation.forward = nn.Identity.forward
    return model


def _after_evaluation(pair: Pair) -> float:
    _, faulty = pair.filled()  # evaluates both
    model = pair.faulty(CLASSES).double()
    model.load_state_dict(faulty.state_dict())
    outs = []
    for network in (model, faulty):
        torch.manual_seed(0)
        outs.append(forward(network.train(), pair.images(8)))
    return difference(outs[1], outs[0])


@mutant(
    EFFICIENTNET,
    "eval() sets the rates of dropout and stochastic depth to zero, and train() does not bring them back",
    check="mode_switch",
    category="state",
    evidence=_after_evaluation,
)
@method_of("eval")
def regularised_until_evaluated(self: Any) -> Any:
    for _, depth in of_type(self, StochasticDepth):
        depth.rate = 0.0
    self.dropout.p = 0.0
    EfficientNet.eval(self)
    return self


class Evaluated(Around):
    """Notes in eval(), and there alone, that it is evaluated."""

    evaluated = False

    def eval(self) -> Evaluated:
        super().eval()
        self.evaluated = True
        return self

    def train(self, mode: bool = True) -> Evaluated:
        super().train(mode)
        self.evaluated = self.evaluated and not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


class AskingDepth(StochasticDepth):
    """Asks the network whether it is evaluated."""

    network: tuple[Evaluated, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        self.training = not self.network[0].evaluated
        return super().forward(x)


def _inside_another(pair: Pair) -> float:
    correct, faulty = pair.filled()
    images = pair.images()
    with torch.no_grad():
        return difference(nn.Sequential(faulty).train().eval()(images), correct(images))


@saving_fault(
    EFFICIENTNET,
    "eval() switches stochastic depth off and train(False) does not: a module around it evaluates it with draws",
    evidence=_inside_another,
)
def only_eval_switches(model: Any) -> nn.Module:
    outer = Evaluated(model)
    for _, depth in of_type(model, StochasticDepth):
        asking = become(depth, AskingDepth)
        asking.__dict__["network"] = (outer,)
    return outer
