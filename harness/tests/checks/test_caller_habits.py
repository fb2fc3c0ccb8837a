"""What a user's code does around a network: differentiate twice, load a part, hook, print."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from harness.bench.bench import Bench
from harness.checks.registry import find_check
from harness.errors import SubjectError
from harness.subjects.loading import family_of, own_subjects
from suites.vit.model import VisionTransformer, vit_tiny_8

VIT = family_of("vit")


def bench_of(change: Callable[[Any], None]) -> Bench:
    """For ours with ``change`` made to each instance."""

    def factory(num_classes: int = 1000, in_channels: int = 3, image_size: int = 32) -> nn.Module:
        model = vit_tiny_8(num_classes, in_channels, image_size)
        change(model)
        return model

    module = ModuleType("changed")
    vars(module)["vit_tiny_8"] = factory
    (ours,) = own_subjects(VIT, ("vit_tiny_8",))
    return Bench(replace(ours, label="changed", spec="changed.py", module=lambda: module))


def judge(check: str, change: Callable[[Any], None]) -> Bench:
    bench = bench_of(change)
    try:
        find_check(check, VIT)(bench)
    finally:
        bench.close()
    return bench


class Written(torch.autograd.Function):
    """GELU; of its own derivative autograd sees nothing but the last factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-x * x / 2) / math.sqrt(math.tau))
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    @staticmethod
    def backward(ctx: Any, *sent: Any) -> Any:
        return sent[0] * ctx.saved_tensors[0]


class Once(Written):
    """The same, and says so."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *sent: Any) -> Any:
        return sent[0] * ctx.saved_tensors[0]


def activated(function: Any) -> Callable[[Any], None]:
    class Activation(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function.apply(x)

    def change(model: Any) -> None:
        for layer in model.layers:
            layer.mlp[1] = Activation()

    return change


def test_a_backward_pass_may_refuse_to_be_differentiated_but_not_be_wrong() -> None:
    assert "refused" in judge("gradcheck", activated(Once)).notes["second_derivatives"]
    with pytest.raises(AssertionError, match="differentiated twice, it differs"):
        judge("gradcheck", activated(Written))


class Forgiving(VisionTransformer):
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        own = {n: t for n, t in self.state_dict().items() if n.startswith("layers.")}
        return super().load_state_dict({**own, **state_dict}, strict, assign)


def forgive(model: Any) -> None:
    model.__class__ = Forgiving


def test_a_state_without_a_layer_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"takes a state without layers\.\d"):
        judge("state_dict_round_trip", forgive)


class Hooking(VisionTransformer):
    def forward(self, images: Tensor) -> Tensor:
        self.layers[0].register_forward_hook(lambda module, given, out: None)
        return super().forward(images)


def hook(model: Any) -> None:
    model.__class__ = Hooking


def test_hooks_do_not_pile_up() -> None:
    with pytest.raises(AssertionError, match="each forward pass registers 2 hooks"):
        judge("no_cache", hook)


class Unprintable(VisionTransformer):
    def extra_repr(self) -> str:
        raise AttributeError("no heads")


class Unhashable(VisionTransformer):
    __hash__ = None  # type: ignore[assignment]


class Grouped(VisionTransformer):
    def parameters(self, recurse: bool = True) -> Any:
        return iter([{"params": list(super().parameters(recurse))}])


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Unprintable, r"repr\(\) raised AttributeError: no heads"),
        (Unhashable, r"modules\(\) raised TypeError: unhashable type"),
        (Grouped, r"parameters\(\) gives dict; expected tensors"),
    ],
)
def test_what_breaks_torchs_conventions_is_one_line(made: type[VisionTransformer], says: str) -> None:
    def change(model: Any) -> None:
        model.__class__ = made

    with pytest.raises(SubjectError, match=says):
        judge("parameters", change)
