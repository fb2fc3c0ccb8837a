"""Correct ResNets, written differently."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.mutants.operators import Shifts, around, forward_of
from harness.mutants.variant import Around, become, correct, of_type, replaced
from suites.resnet.model import BasicBlock, Bottleneck, ResNet
from suites.resnet.mutants.base_models import RESNET12, RESNET17


class Flat(nn.Module):
    """Raw parameters and buffers with numbers for names, and torch's functions."""

    w0: nn.Parameter
    w28: nn.Parameter
    b28: nn.Parameter

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        count = 0
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                self.register_parameter(f"w{count}", nn.Parameter(module.weight.detach().clone()))
                if module.bias is not None:
                    self.register_parameter(f"b{count}", nn.Parameter(module.bias.detach().clone()))
                if isinstance(module, nn.BatchNorm2d):
                    self.register_buffer(f"m{count}", torch.zeros(module.num_features))
                    self.register_buffer(f"v{count}", torch.ones(module.num_features))
                count += 1

    def norm(self, x: Tensor, i: int) -> Tensor:
        mean, var = getattr(self, f"m{i}"), getattr(self, f"v{i}")
        return F.batch_norm(x, mean, var, getattr(self, f"w{i}"), getattr(self, f"b{i}"), self.training, 0.1, 1e-5)

    def block(self, x: Tensor, i: int, stride: int, project: bool) -> Tensor:
        out = F.relu(self.norm(F.conv2d(x, getattr(self, f"w{i}"), None, stride, 1), i + 1))
        out = self.norm(F.conv2d(out, getattr(self, f"w{i + 2}"), None, 1, 1), i + 3)
        if project:
            x = self.norm(F.conv2d(x, getattr(self, f"w{i + 4}"), None, stride), i + 5)
        return F.relu(x + out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(F.conv2d(x, self.w0, None, 2, 3), 1))
        x = self.block(self.block(F.max_pool2d(x, 3, 2, 1), 2, 1, False), 6, 1, False)
        for i in (10, 16, 22):
            x = self.block(x, i, 2, True)
        return F.linear(x.mean((2, 3)), self.w28, self.b28)


@correct(RESNET12, "one module of numbered raw parameters and buffers, functional convolutions and norms")
def raw_parameters(model: Any) -> nn.Module:
    return Flat(model)


@correct(RESNET12, "the shortcut is computed first, nothing is in place")
@forward_of(BasicBlock)
def shortcut_first(self: Any, x: Tensor) -> Tensor:
    identity = self.shortcut(x)
    out = F.relu(self.norm1(self.conv1(x)))
    return F.relu(identity + self.norm2(self.conv2(out)))


class HandwrittenNorm(nn.Module):
    """BatchNorm from its definition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))
        self.register_buffer("moving_mean", torch.zeros(width))
        self.register_buffer("moving_var", torch.ones(width))
        self.moving_mean: Tensor
        self.moving_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            count = x.numel() / x.shape[1]
            with torch.no_grad():
                self.moving_mean += 0.1 * (mean - self.moving_mean)
                self.moving_var += 0.1 * (var * count / (count - 1) - self.moving_var)
        else:
            mean, var = self.moving_mean, self.moving_var
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        return x * self.gamma[:, None, None] + self.beta[:, None, None]


@correct(RESNET12, "every BatchNorm is written by hand")
def handwritten_norms(model: Any) -> nn.Module:
    for name, norm in of_type(model, nn.BatchNorm2d):
        replaced(model, name, HandwrittenNorm(norm.num_features))
    return model


class UnfoldedConv(nn.Conv2d):
    """A convolution as a matrix product over patches."""

    def forward(self, input: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        padding = int(self.padding[0])
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in input.shape[2:])
        columns = F.unfold(input, kernel, padding=padding, stride=stride)
        return (self.weight.flatten(1) @ columns).unflatten(2, (height, width))


@correct(RESNET12, "3x3 convolutions are unfold and a matrix product")
def unfolded_convolutions(model: Any) -> nn.Module:
    for _, conv in of_type(model, nn.Conv2d):
        if conv.kernel_size == (3, 3):
            become(conv, UnfoldedConv)
    return model


class ChannelsLastInside(Around):
    """Computes in channels_last, whatever comes."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x.contiguous(memory_format=torch.channels_last))


@correct(RESNET12, "weights and features are in channels_last inside")
def channels_last_inside(model: Any) -> nn.Module:
    return ChannelsLastInside(model).to(memory_format=torch.channels_last)


class Spelled(nn.Module):
    """Every block under a name of its own; no container."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.patchify, self.normalise = model.stem[0], model.stem[1]
        self.conv2_1, self.conv2_2 = model.stages[0]
        self.conv3_1, self.conv4_1, self.conv5_1 = (stage[0] for stage in model.stages[1:])
        self.logits = model.head

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.normalise(self.patchify(x))), 3, 2, 1)
        x = self.conv2_2(self.conv2_1(x))
        x = self.conv5_1(self.conv4_1(self.conv3_1(x)))
        return self.logits(x.flatten(2).mean(-1))


@correct(RESNET17, "no nn.Sequential around the stages, other names, pooling as a mean over pixels")
def spelled_out(model: Any) -> nn.Module:
    return Spelled(model)


class Checkpointed(Bottleneck):
    """Recomputes itself in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or self.training:  # recomputing would update the statistics twice
            return super().forward(x)
        return checkpoint(super().forward, x, use_reentrant=False)


@correct(RESNET17, "blocks are checkpointed: their features are recomputed for the gradient")
def gradient_checkpointing(model: Any) -> nn.Module:
    for _, block in of_type(model, Bottleneck):
        become(block, Checkpointed)
    return model


@correct(RESNET12, "forward returns a dict with the logits and small images")
@around
def returns_a_dict(self: Any, x: Tensor) -> Any:
    return {"logits": self.net(x), "thumbnails": F.avg_pool2d(x, 4)}


@dataclass
class Prediction:
    """What `AsDataclass` returns."""

    logits: Tensor
    loss: Tensor | None = None


class AsDataclass(Around):
    """Logits in a dataclass."""

    def forward(self, x: Tensor) -> Any:
        return Prediction(self.net(x))


@correct(RESNET12, "forward returns a dataclass")
def returns_a_dataclass(model: Any) -> nn.Module:
    return AsDataclass(model)


@correct(RESNET12, "the head and a convolution are lazy: their shapes come from the first call")
def lazy_modules(model: Any) -> nn.Module:
    replaced(model, "head", nn.LazyLinear(model.head.out_features))
    return replaced(model, "stages.1.0.conv2", nn.LazyConv2d(128, 3, padding=1, bias=False))


@correct(RESNET12, "control flow depends on the images' values, so it can't be exported")
@around
def data_dependent_guard(self: Any, x: Tensor) -> Any:
    if bool((x.abs() == float("inf")).all()):
        raise ValueError("images are infinite")
    return self.net(x)


class PointwiseByLinear(nn.Conv2d):
    """A 1x1 convolution as a linear layer over channels."""

    def forward(self, input: Tensor) -> Tensor:
        strided = input[:, :, :: self.stride[0], :: self.stride[1]]
        return torch.einsum("bihw,oi->bohw", strided, self.weight[:, :, 0, 0])


@correct(RESNET17, "1x1 convolutions are einsums over channels")
def pointwise_einsum(model: Any) -> nn.Module:
    for _, conv in of_type(model, nn.Conv2d):
        if conv.kernel_size == (1, 1):
            become(conv, PointwiseByLinear)
    return model


@correct(RESNET12, "BatchNorm is folded to one scale and shift, which train mode computes with additions of its own")
@forward_of(nn.BatchNorm2d)
def folded_norms(self: Any, input: Tensor) -> Tensor:
    """One multiplication and one addition in eval mode; in train mode the definition, with its own additions."""
    assert self.running_mean is not None
    assert self.running_var is not None
    if self.training:
        variance, mean = torch.var_mean(input.to(self.weight.dtype), (0, 2, 3), correction=0)
        count = input.numel() // len(mean)
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(variance * (count / (count - 1)), 0.1)
        scale = self.weight / (variance + self.eps).sqrt()
    else:
        mean, scale = self.running_mean, self.weight / (self.running_var + self.eps).sqrt()
    shift = self.bias - mean * scale
    return torch.addcmul(shift.view(-1, 1, 1), input, scale.view(-1, 1, 1))


class Locked(Around):
    """Holds a lock, so that it can't be copied."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.lock = Lock()

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


@correct(RESNET12, "the module holds a lock, so that it can't be copied")
def holds_a_lock(model: Any) -> nn.Module:
    return Locked(model)


class Hooked(nn.Module):
    """The head reads what a hook has written to this module: a copy's hook would write to the original."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.last = net, net.head
        net.head = nn.Identity()

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.kept = output

        net.pool.register_forward_hook(keep)

    def forward(self, x: Tensor) -> Any:
        self.net(x)
        return self.last(torch.flatten(self.kept, 1))


@correct(RESNET12, "the head reads features that a hook wrote to the module, so that copies don't work")
def features_from_a_hook(model: Any) -> nn.Module:
    return Hooked(model)


@correct(RESNET12, "the stem is a 4x4 convolution over blocks of 2x2 pixels, its 7x7 kernel padded and laid out anew")
@forward_of("stem.0")
def stem_over_blocks(self: Any, input: Tensor) -> Tensor:
    """The 7x7 stem with stride 2 as a 4x4 convolution over blocks of 2x2 pixels, as TPUs like it."""
    (height, width), count = input.shape[2:], self.in_channels
    blocks = F.pixel_unshuffle(F.pad(input, (4, 2 + width % 2, 4, 2 + height % 2)), 2)
    kernel = F.pad(self.weight, (1, 0, 1, 0)).view(-1, count, 4, 2, 4, 2)
    return F.conv2d(blocks, kernel.permute(0, 1, 3, 5, 2, 4).flatten(1, 3))


@correct(RESNET12, "3x3 convolutions are sums over nine shifts")
def sums_of_shifts(model: Any) -> nn.Module:
    for _, conv in of_type(model, nn.Conv2d):
        if conv.kernel_size == (3, 3):
            become(conv, Shifts)
    return model
