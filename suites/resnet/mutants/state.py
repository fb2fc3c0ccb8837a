"""ResNets with a fault in their state: saving, loading, copying, what is kept."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import method_of
from harness.mutants.probe import CLASSES, Pair, compared, difference, forward, gradients
from harness.mutants.state_probe import accepts, reloaded
from harness.mutants.variant import Around, become, mutant, of_type, saving_fault
from suites.resnet.model import BasicBlock, ResNet
from suites.resnet.mutants.base_models import RESNET12


@saving_fault(RESNET12, "A BatchNorm's running mean is a buffer that state_dict leaves out", evidence=reloaded)
def running_mean_not_saved(model: Any) -> nn.Module:
    norm = model.stages[2][0].norm1
    norm.register_buffer("running_mean", norm.running_mean, persistent=False)
    return model


def _replaced_parameters(pair: Pair) -> float:
    model = pair.faulty(CLASSES)
    before = {id(p) for p in model.parameters()}
    model.eval().train()
    return float(sum(id(p) not in before for p in model.parameters()))


@mutant(
    RESNET12,
    "eval() puts new parameters in the place of the norms' gains: an optimizer made before goes on with the old ones",
    check="mode_switch",
    category="state",
    evidence=_replaced_parameters,
)
@method_of("train")
def eval_replaces_parameters(self: Any, mode: bool = True) -> Any:
    ResNet.train(self, mode)
    for _, norm in of_type(self, nn.BatchNorm2d) if not mode else ():
        norm.weight = nn.Parameter(norm.weight.detach().clone())
    return self


@mutant(
    RESNET12,
    "train() is overridden and does not return the module, so that model.eval()(images) fails",
    check="parameters",
    category="state",
    evidence=lambda pair: float(pair.faulty(CLASSES).eval() is None),
)
@method_of("train")
def train_returns_nothing(self: Any, mode: bool = True) -> Any:
    ResNet.train(self, mode)


class KeptMask(torch.autograd.Function):
    """ReLU whose backward pass reads what the module saw last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any) -> Tensor:
        ctx.module, module.kept = module, x.clamp(min=0)
        out: Tensor = module.kept.clone()
        return out

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, None]:
        return outputs[0] * (ctx.module.kept[: len(outputs[0])] > 0), None


class KeepsMask(nn.Module):
    """`KeptMask` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = KeptMask.apply(x, self)
        return out


class OwnReLU(BasicBlock):
    """Its last ReLU keeps its mask on the module."""

    last: KeepsMask

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        joined: Tensor = self.last(self.norm2(self.conv2(out)) + self.shortcut(x))
        return joined


def _gradient_across_passes(pair: Pair) -> float:
    _, faulty = pair.filled()
    expected = gradients(faulty, pair.images())["images"]
    images = pair.images().requires_grad_()
    logits = faulty(images)
    faulty(pair.images().flip(0))
    weights = torch.linspace(0.5, 1.5, logits.numel(), dtype=logits.dtype).view(logits.shape)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), images)
    return difference(gradient, expected)


@mutant(
    RESNET12,
    "A hand-written ReLU keeps its mask on the module: a second forward pass spoils the first one's backward pass",
    check="no_cache",
    category="state",
    evidence=_gradient_across_passes,
)
def mask_kept_on_the_module(model: Any) -> nn.Module:
    for _, block in of_type(model, BasicBlock):
        block.last = KeepsMask()
        become(block, OwnReLU)
    return model


class Gathering(Around):
    """Appends its logits to a list that nobody clears."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        self.seen.append(self.net(x))
        return self.seen[-1].clone()


def _kept(pair: Pair) -> float:
    model, counts = pair.faulty(CLASSES), []
    for _ in range(3):
        model(pair.images().float())
        gc.collect()
        counts.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))
    return float(max(0, counts[2] - counts[1]))


@mutant(
    RESNET12,
    "Every forward pass appends its logits, and with them its graph, to a list that is never cleared",
    check="no_cache",
    category="state",
    evidence=_kept,
)
def logits_gathered_for_ever(model: Any) -> nn.Module:
    return Gathering(model)


def _copied(pair: Pair) -> float:
    twin = copy.deepcopy(pair.faulty(CLASSES).double().eval())
    before = twin(pair.images())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    return 1.0 - difference(twin(pair.images()), before)  # zero parameters give zero logits


@saving_fault(
    RESNET12,
    "The forward pass is a closure over the layers: a deep copy, as averaged weights are kept in, runs the original's",
    evidence=_copied,
)
def copy_runs_the_original(model: Any) -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        out: Tensor = type(model).forward(model, x)
        return out

    model.forward = forward
    return model


@saving_fault(
    RESNET12,
    "load_state_dict keeps its own values where a shape differs, and drops names that it does not know",
    evidence=accepts(lambda own: {**own, "head.bias": torch.zeros(3)}),
)
@method_of("load_state_dict")
def tolerant_loading(self: Any, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
    own = self.state_dict()
    fitting = {n: t if t.shape == own[n].shape else own[n] for n, t in state_dict.items() if n in own}
    return ResNet.load_state_dict(self, fitting, strict, assign)


class Normalised(Around):
    """Subtracts a mean that is neither parameter nor buffer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.mean = torch.zeros(3, 1, 1)

    def forward(self, x: Tensor) -> Any:
        return self.net(x - self.mean.to(x.dtype))


def _left_behind(pair: Pair) -> float:
    moved: Any = pair.faulty(CLASSES).to("meta")
    return float(moved.mean.device != next(moved.parameters()).device)


@mutant(
    RESNET12,
    "The images' mean is a plain attribute, which .to(device) leaves behind",
    check="device",
    category="state",
    evidence=_left_behind,
)
def constant_left_behind(model: Any) -> nn.Module:
    return Normalised(model)


class Captured(nn.Linear):
    """Computes with the parameters that it had when it was made."""

    own: tuple[nn.Parameter, nn.Parameter]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.own)


@compared
def _assigned(model: nn.Module, pair: Pair) -> Tensor:
    twice = {n: 2 * t for n, t in pair.filled()[0].state_dict().items()}
    model.load_state_dict(twice, assign=True)
    return forward(model, pair.images())


@saving_fault(
    RESNET12,
    "The classifier keeps the parameters that it was made with: load_state_dict(assign=True) has no effect on it",
    evidence=_assigned,
)
def parameters_captured(model: Any) -> nn.Module:
    become(model.head, Captured)
    model.head.own = (model.head.weight, model.head.bias)
    return model


class ForgivesStatistics(Around):
    """Takes its own statistics where there are none."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        own = {n: t for n, t in self.state_dict().items() if "running" in n}
        return super().load_state_dict({**own, **state_dict}, strict, assign)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


@saving_fault(
    RESNET12,
    "load_state_dict takes weights without running statistics, and computes with those that it started with",
    evidence=accepts(lambda own: {n: t for n, t in own.items() if "running" not in n}),
)
def statistics_not_asked_for(model: Any) -> nn.Module:
    return ForgivesStatistics(model)


class Unwrapped(ForgivesStatistics):
    """Hands its network's state on, whatever prefix a parent asks for."""

    def state_dict(self, *args: Any, **keywords: Any) -> Any:
        return self.net.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.net.load_state_dict(state_dict, strict, assign)


def _names_lost(pair: Pair) -> float:
    return float(len(pair.faulty(10).state_dict()) - len(nn.Sequential(pair.faulty(10)).state_dict()))


@saving_fault(
    RESNET12,
    "state_dict() is its own and ignores the prefix: inside a detector nothing of it is saved",
    evidence=_names_lost,
)
def state_dict_without_prefix(model: Any) -> nn.Module:
    return Unwrapped(model)
