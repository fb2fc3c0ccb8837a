"""EfficientNets whose definition is off by one thing that shows in the forward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import forward_of, layer_at, with_settings
from harness.mutants.probe import output_at
from harness.mutants.variant import become, mutant, of_type, parameters_fault, replaced
from suites.efficientnet.model import MBConv, Recipe, SamePadConv2d, SiLU, SqueezeExcitation, StageSetting
from suites.efficientnet.mutants.base_models import EFFICIENTNET

PLAIN = Recipe()


@parameters_fault(
    EFFICIENTNET,
    "Squeeze-and-excitation squeezes to a quarter of the expanded width",
    issue="https://github.com/tensorflow/tpu/issues/616",
)
def squeezed_from_the_expanded_width(model: Any) -> nn.Module:
    for name, squeeze in of_type(model, SqueezeExcitation):
        width = squeeze.reduce.in_channels
        replaced(model, name, SqueezeExcitation(width, max(1, width // 4)))
    return model


@parameters_fault(EFFICIENTNET, "Squeeze-and-excitation has ratio 8 in one block")
def squeeze_ratio_8(model: Any) -> nn.Module:
    return replaced(model, "features.7.0.branch.2", SqueezeExcitation(288, 6))


@parameters_fault(EFFICIENTNET, "One block has no squeeze-and-excitation")
def no_squeeze_in_one_block(model: Any) -> nn.Module:
    return replaced(model, "features.3.0.branch.2", nn.Identity())


@mutant(EFFICIENTNET, "The gates are hard sigmoids, as in MobileNetV3", check="gates")
def hard_sigmoid_gates(model: Any) -> nn.Module:
    return with_settings(model, SqueezeExcitation, gate=nn.Hardsigmoid())


@mutant(EFFICIENTNET, "The gates are doubled, so that they may exceed one", check="gates")
@forward_of("features.4.0.branch.2.gate")
def gates_up_to_two(self: Any, input: Tensor) -> Tensor:
    return 2 * input.sigmoid()


@mutant(EFFICIENTNET, "The gates of a block compete in a softmax over the channels", check="gates")
def softmax_gates(model: Any) -> nn.Module:
    return replaced(model, "features.5.0.branch.2.gate", nn.Softmax(dim=1))


@mutant(EFFICIENTNET, "Squeeze-and-excitation activates with ReLU, as in its own paper", check="parity_eval")
def relu_in_the_squeeze(model: Any) -> nn.Module:
    return with_settings(model, SqueezeExcitation, activation=nn.ReLU())


@mutant(EFFICIENTNET, "Squeeze-and-excitation pools the maximum", check="parity_eval")
@forward_of("features.2.0.branch.2")
def maximum_in_the_squeeze(self: Any, x: Tensor) -> Tensor:
    return x * self.gate(self.expand(self.activation(self.reduce(x.amax((2, 3), keepdim=True)))))


@mutant(EFFICIENTNET, "The squeeze is forgotten: each pixel has gates of its own", check="parity_eval")
@forward_of("features.2.0.branch.2")
def gates_per_pixel(self: Any, x: Tensor) -> Tensor:
    return x * self.gate(self.expand(self.activation(self.reduce(x))))


@mutant(EFFICIENTNET, "The gates of a block are added, not multiplied", check="gates")
@forward_of("features.6.0.branch.2")
def gates_added(self: Any, x: Tensor) -> Tensor:
    pooled = x.mean((2, 3), keepdim=True)
    return x + self.gate(self.expand(self.activation(self.reduce(pooled))))


@mutant(EFFICIENTNET, "The sigmoid of a gate is missing", check="gates")
@forward_of("features.1.0.branch.1")
def gate_without_sigmoid(self: Any, x: Tensor) -> Tensor:
    return x * self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True))))


@mutant(EFFICIENTNET, "Squeeze-and-excitation comes before the depthwise convolution", check="parity_eval")
def squeeze_before_the_depthwise(model: Any) -> nn.Module:
    branch = model.features[3][0].branch
    branch[1], branch[2] = branch[2], branch[1]
    return model


@mutant(EFFICIENTNET, "The gates act before the depthwise convolution's activation", check="parity_eval")
@forward_of("features.3.0.branch")
def gates_before_the_activation(self: Any, input: Tensor) -> Tensor:
    expand, depthwise, squeeze, project = self
    assert isinstance(depthwise, nn.Sequential)
    return project(F.silu(squeeze(depthwise[:2](expand(input)))))


def _activations(model: nn.Module, make: Any) -> nn.Module:
    for name, _ in of_type(model, SiLU):
        replaced(model, name, make())
    return model


@mutant(EFFICIENTNET, "ReLU in place of SiLU", check="parity_eval")
def relu_for_silu(model: Any) -> nn.Module:
    return _activations(model, nn.ReLU)


@mutant(EFFICIENTNET, "Hard swish in place of SiLU, as in MobileNetV3", check="parity_eval")
def hard_swish_for_silu(model: Any) -> nn.Module:
    return _activations(model, nn.Hardswish)


@mutant(EFFICIENTNET, "GELU in place of the stem's SiLU", check="parity_eval")
def gelu_in_the_stem(model: Any) -> nn.Module:
    return replaced(model, "features.0.2", nn.GELU())


@mutant(EFFICIENTNET, "Swish has beta 1.702 in one place", check="parity_eval")
@layer_at("features.8.2")
def swish_with_another_beta(self: Any, x: Tensor) -> Tensor:
    """Swish with the slope of GELU's sigmoid approximation."""
    return x * torch.sigmoid(1.702 * x)


@mutant(EFFICIENTNET, "The projection is activated: the bottleneck is not linear", check="parity_eval")
def activated_projection(model: Any) -> nn.Module:
    model.features[4][1].branch[3].append(nn.SiLU())
    return model


@mutant(EFFICIENTNET, "The final 1x1 convolution is not activated", check="parity_eval")
def head_without_activation(model: Any) -> nn.Module:
    return replaced(model, "features.8.2", nn.Identity())


@parameters_fault(EFFICIENTNET, "A stage has depthwise kernels of 3 where 5 is published")
def kernel_3_for_5(model: Any) -> nn.Module:
    width = model.features[3][0].branch[1][0].out_channels
    return replaced(
        model, "features.3.0.branch.1.0", nn.Conv2d(width, width, 3, 2, padding=1, groups=width, bias=False)
    )


def _with_block(model: nn.Module, name: str, in_width: int, setting: StageSetting) -> nn.Module:
    return replaced(model, name, MBConv(PLAIN, in_width, setting, 0.02))


@parameters_fault(EFFICIENTNET, "A block expands four times, not six")
def expansion_4(model: Any) -> nn.Module:
    return _with_block(model, "features.2.0", 8, StageSetting(4, 3, 2, 8, 1))


@parameters_fault(
    EFFICIENTNET, "A width is rounded without the rule that it loses no more than 10 %: 8 channels for 16"
)
def width_rounded_down(model: Any) -> nn.Module:
    _with_block(model, "features.3.0", 8, StageSetting(6, 5, 2, 8, 1))
    return _with_block(model, "features.4.0", 8, StageSetting(6, 3, 2, 24, 1))


@parameters_fault(EFFICIENTNET, "Depth is rounded down: a stage has one block too few")
def depth_rounded_down(model: Any) -> nn.Module:
    return replaced(model, "features.4.1", nn.Identity())


@parameters_fault(EFFICIENTNET, "The depthwise convolution of a block is not depthwise")
def dense_for_depthwise(model: Any) -> nn.Module:
    width = model.features[2][0].branch[1][0].out_channels
    return replaced(model, "features.2.0.branch.1.0", nn.Conv2d(width, width, 3, 2, padding=1, bias=False))


@mutant(EFFICIENTNET, "TensorFlow's padding (SAME) in the stem, in a port with symmetric weights", check="parity_eval")
def same_padding_in_the_stem(model: Any) -> nn.Module:
    stem = model.features[0][0]
    become(stem, SamePadConv2d)
    stem.padding = (0, 0)
    return model


@mutant(
    EFFICIENTNET,
    "The last stride is in the stage before the one that has it",
    check="shapes",
)
def stride_in_another_stage(model: Any) -> nn.Module:
    model.features[5][0].branch[1][0].stride = (2, 2)
    model.features[6][0].branch[1][0].stride = (1, 1)
    return model


@mutant(EFFICIENTNET, "The stem does not stride", check="shapes", evidence=output_at(2, 64))
def stem_without_stride(model: Any) -> nn.Module:
    return with_settings(model, "features.0.0", stride=(1, 1))


@mutant(EFFICIENTNET, "BatchNorm's eps is 1e-3, as in TensorFlow's B0", check="parity_eval")
def batch_norm_eps_1e_3(model: Any) -> nn.Module:
    return with_settings(model, nn.BatchNorm2d, eps=1e-3)


@mutant(EFFICIENTNET, "A block that keeps its shape has no shortcut", check="parity_eval")
def shortcut_missing(model: Any) -> nn.Module:
    return with_settings(model, "features.4.1", residual=False)
