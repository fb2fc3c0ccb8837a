"""Networks that are not the published ResNet."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.mutants.operators import forward_of, with_settings
from harness.mutants.probe import Pair, output_at
from harness.mutants.variant import become, instead, mutant, of_type, parameters_fault, replaced
from suites.resnet.model import BasicBlock, Bottleneck, ResNet
from suites.resnet.mutants.base_models import RESNET12, RESNET17, resnet12


@mutant(
    RESNET17,
    "The bottleneck strides in its first 1x1 convolution, as in the paper, where v1.5 strides in the 3x3",
    check="multiply_adds",
    issue="https://github.com/pytorch/vision/issues/191",
)
def stride_on_the_first_1x1(model: Any) -> nn.Module:
    for _, block in of_type(model, Bottleneck):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return model


@mutant(RESNET12, "The ReLU after the addition is missing in one block", check="parity_eval")
@forward_of("stages.1.0")
def no_relu_after_the_addition(self: Any, x: Tensor) -> Tensor:
    out = self.relu(self.norm1(self.conv1(x)))
    return self.norm2(self.conv2(out)) + self.shortcut(x)


@mutant(RESNET12, "The ReLU acts on the branch, before the addition", check="parity_eval")
@forward_of(BasicBlock)
def relu_before_the_addition(self: Any, x: Tensor) -> Tensor:
    out = self.relu(self.norm1(self.conv1(x)))
    return self.relu(self.norm2(self.conv2(out))) + self.shortcut(x)


@mutant(RESNET17, "The ReLU after the 3x3 convolution is missing in one bottleneck", check="parity_eval")
@forward_of("stages.2.0")
def no_relu_after_the_3x3(self: Any, x: Tensor) -> Tensor:
    out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
    return self.relu(self.norm3(self.conv3(out)) + self.shortcut(x))


@mutant(RESNET12, "Blocks activate first, as in ResNet v2, and not after the addition", check="parity_eval")
@forward_of(BasicBlock)
def pre_activation(self: Any, x: Tensor) -> Tensor:
    """ResNet v2's order with v1's layers."""
    out = self.norm1(self.conv1(self.relu(x)))
    return self.norm2(self.conv2(F.relu(out))) + self.shortcut(x)


@mutant(RESNET12, "The last norm of a block acts on the sum instead of the branch", check="parity_eval")
@forward_of("stages.0.1")
def norm_after_the_addition(self: Any, x: Tensor) -> Tensor:
    out = self.conv2(self.relu(self.norm1(self.conv1(x))))
    return self.relu(self.norm2(out + self.shortcut(x)))


@mutant(RESNET12, "One block subtracts its residual branch", check="parity_eval")
@forward_of("stages.0.1")
def residual_subtracted(self: Any, x: Tensor) -> Tensor:
    out = self.relu(self.norm1(self.conv1(x)))
    return self.relu(self.shortcut(x) - self.norm2(self.conv2(out)))


@mutant(RESNET12, "Blocks average branch and shortcut where they should add", check="parity_eval")
@forward_of(BasicBlock)
def residual_averaged(self: Any, x: Tensor) -> Tensor:
    out = self.relu(self.norm1(self.conv1(x)))
    return self.relu((self.norm2(self.conv2(out)) + self.shortcut(x)) / 2)


@mutant(RESNET12, "The max pooling has a kernel of 2", check="parity_eval")
def max_pool_kernel_2(model: Any) -> nn.Module:
    return replaced(model, "stem.3", nn.MaxPool2d(2, stride=2))


@mutant(
    RESNET12,
    "The max pooling rounds up (ceil mode) and has no padding, as in Caffe's models: the window lies one pixel off",
    check="parity_eval",
)
def max_pool_ceil_mode(model: Any) -> nn.Module:
    return replaced(model, "stem.3", nn.MaxPool2d(3, stride=2, ceil_mode=True))


@mutant(RESNET12, "Average pooling in the stem in place of max pooling", check="parity_eval")
def average_pool_in_the_stem(model: Any) -> nn.Module:
    return replaced(model, "stem.3", nn.AvgPool2d(3, stride=2, padding=1))


@mutant(RESNET12, "The stem has no max pooling, as in ResNets for CIFAR", check="shapes", evidence=output_at(2, 64))
def no_max_pool(model: Any) -> nn.Module:
    return replaced(model, "stem.3", nn.Identity())


@mutant(RESNET12, "The stem's 7x7 convolution pads by 2", check="shapes", evidence=output_at(2, 64))
def stem_padding_2(model: Any) -> nn.Module:
    model.stem[0].padding = (2, 2)
    return model


@parameters_fault(RESNET12, "The stem's convolution has a kernel of 3")
def stem_kernel_3(model: Any) -> nn.Module:
    old = model.stem[0]
    return replaced(model, "stem.0", nn.Conv2d(old.in_channels, 64, 3, stride=2, padding=1, bias=False))


@mutant(
    RESNET12,
    "The stem takes 3 channels whatever in_channels says: it was exchanged after the model was built",
    check="shapes",
    evidence=lambda pair: float(pair.faulty(10, in_channels=1).stem[0].in_channels - 1),
)
def in_channels_ignored(model: Any) -> nn.Module:
    return replaced(model, "stem.0", nn.Conv2d(3 if model.stem[0].in_channels < 4 else 4, 64, 7, 2, 3, bias=False))


@mutant(RESNET12, "BatchNorm's eps is 1e-3 throughout (Keras's default)", check="parity_eval")
def batch_norm_eps_1e_3(model: Any) -> nn.Module:
    return with_settings(model, nn.BatchNorm2d, eps=1e-3)


@mutant(RESNET12, "A single BatchNorm has eps 2e-5", check="parity_eval")
def one_batch_norm_eps_2e_5(model: Any) -> nn.Module:
    return with_settings(model, "stages.2.0.norm2", eps=2e-5)


@mutant(RESNET12, "Leaky ReLU with slope 0.01 in one block", check="parity_eval")
def leaky_relu(model: Any) -> nn.Module:
    return replaced(model, "stages.1.0.relu", nn.LeakyReLU(0.01))


@mutant(RESNET12, "ReLU6 in place of ReLU", check="parity_eval")
def relu6(model: Any) -> nn.Module:
    for name, _ in of_type(model, nn.ReLU):
        replaced(model, name, nn.ReLU6())
    return model


@mutant(RESNET12, "GELU in place of ReLU in the stem", check="parity_eval")
def gelu_in_the_stem(model: Any) -> nn.Module:
    return replaced(model, "stem.2", nn.GELU())


@parameters_fault(RESNET12, "A projection shortcut has no norm")
def projection_without_norm(model: Any) -> nn.Module:
    return replaced(model, "stages.1.0.shortcut.1", nn.Identity())


class ZeroPadded(nn.Module):
    """Option A: every other pixel, new channels zero."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.more))


@parameters_fault(
    RESNET12,
    "Shortcuts subsample and pad with zero channels (option A) where the published network projects (option B)",
)
def shortcuts_of_option_a(model: Any) -> nn.Module:
    for index in (1, 2, 3):
        replaced(model, f"stages.{index}.0.shortcut", ZeroPadded(32 * 2**index))
    return model


@parameters_fault(RESNET12, "A convolution before a norm has a bias")
def convolution_with_bias(model: Any) -> nn.Module:
    return replaced(model, "stages.0.0.conv1", nn.Conv2d(64, 64, 3, padding=1))


@parameters_fault(RESNET17, "The 3x3 convolutions have two groups, as in ResNeXt")
def grouped_3x3(model: Any) -> nn.Module:
    return replaced(model, "stages.0.0.conv2", nn.Conv2d(64, 64, 3, padding=1, groups=2, bias=False))


@mutant(RESNET12, "The last stage's second convolution is dilated, as in segmentation backbones", check="parity_eval")
def dilated_last_stage(model: Any) -> nn.Module:
    return with_settings(model, "stages.3.0.conv2", dilation=(2, 2), padding=(2, 2))


@mutant(RESNET12, "A convolution pads by reflection", check="parity_eval")
def reflection_padding(model: Any) -> nn.Module:
    old = model.stages[0][1].conv1
    padded = nn.Conv2d(64, 64, 3, padding=1, bias=False, padding_mode="reflect")
    padded.weight = old.weight
    return replaced(model, "stages.0.1.conv1", padded)


@mutant(RESNET12, "The global pooling takes the maximum", check="parity_eval")
def global_max_pool(model: Any) -> nn.Module:
    return replaced(model, "pool", nn.AdaptiveMaxPool2d(1))


@mutant(
    RESNET12,
    "The model ends in a softmax, which the loss applies again",
    check="parity_eval",
)
@forward_of()
def softmax_at_the_end(self: Any, x: Tensor) -> Tensor:
    return torch.softmax(ResNet.forward(self, x), dim=1)


@parameters_fault(RESNET12, "The head has no bias")
def head_without_bias(model: Any) -> nn.Module:
    return replaced(model, "head", nn.Linear(model.head.in_features, model.head.out_features, bias=False))


@parameters_fault(RESNET12, "The first stage has one block too few")
def one_block_too_few(model: Any) -> nn.Module:
    return replaced(model, "stages.0.1", nn.Identity())


@parameters_fault(RESNET12, "Two blocks of a stage are the same module ([block] * depth), so they share their weights")
def blocks_share_weights(model: Any) -> nn.Module:
    return replaced(model, "stages.0.1", model.stages[0][0])


@mutant(RESNET12, "The last stage does not stride", check="shapes")
def last_stage_without_stride(model: Any) -> nn.Module:
    block = model.stages[3][0]
    block.conv1.stride = block.shortcut[0].stride = (1, 1)
    return model


class Repeated(ResNet):
    """Repeats grey images to three channels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.expand(-1, 3, -1, -1))


@instead(
    RESNET12,
    "Asked for one channel, it keeps the stem of three and repeats the image",
    check="shapes",
    category="forward",
    evidence=lambda pair: float(
        pair.faulty(10, 1).stem[0].weight.shape[1] - pair.correct(10, 1).stem[0].weight.shape[1]
    ),
)
def grey_images_repeated(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    model = resnet12(num_classes, 3 if in_channels == 1 else in_channels)
    return become(model, Repeated) if in_channels == 1 else model


def _binary(pair: Pair) -> float:
    with torch.no_grad():
        torch.manual_seed(0)
        outs = [f(1).eval()(100 * pair.images().float()) for f in (pair.faulty, pair.correct)]
    return float(outs[0].abs().max() <= 1 < outs[1].abs().max())


@mutant(RESNET12, "With one class it returns a sigmoid, not the logit", check="shapes", evidence=_binary)
@forward_of()
def sigmoid_for_one_class(self: Any, x: Tensor) -> Tensor:
    logits = ResNet.forward(self, x)
    return logits.sigmoid() if logits.shape[1] == 1 else logits
