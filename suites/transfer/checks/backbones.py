"""Small networks that recipes are judged on, with the order of their layers written down rather than worked out.

They differ in what a recipe can trip over: BatchNorm's statistics, LayerNorm, parameters that belong to no submodule,
a head inside a container or of several layers, dropout, stochastic depth, a weight that two layers share, a library's
own grouping, more than ten blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from harness.bench.bench import seeded
from harness.errors import SubjectError

CLASSES = 5
BATCH = 6


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """``layers`` holds, from the input to the head, the prefixes of each layer's parameters; ``norm`` is the prefix of
    what stands between the last block and the head, and may go with either or between them."""

    name: str
    build: Callable[[], nn.Module]
    head: str
    layers: tuple[tuple[str, ...], ...]
    norm: str = ""
    side: int = 32

    def model(self, seed: int = 0) -> nn.Module:
        """A float64 network with non-degenerate values, in train mode, as the seed gives it."""
        with seeded(seed):
            model = self.build().double()
            with torch.no_grad():
                for tensor in (*model.parameters(), *model.buffers()):
                    if tensor.is_floating_point() and tensor.ndim < 2:
                        tensor.add_(0.2 * torch.rand_like(tensor))
                    elif tensor.is_floating_point() and not tensor.any():
                        tensor.normal_(std=0.02)
        return model.train()

    def layer(self, name: str) -> float:
        """The number of a parameter's layer, from 0 at the input; of the last norm, half a layer below the head's."""
        for number, prefixes in enumerate(self.layers):
            if any(name == p or name.startswith(f"{p}.") for p in prefixes):
                return number
        if not self.norm or not name.startswith(f"{self.norm}."):
            raise SubjectError(f"{name} is no parameter of {self.name}; expected those of the given network alone")
        return len(self.layers) - 1.5

    def in_head(self, name: str) -> bool:
        """Whether a parameter, buffer or module of this name belongs to the head."""
        return name == self.head or name.startswith(f"{self.head}.")

    def batch(self, step: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
        """Float64 images (size, 3, side, side), brighter with each step so that statistics would move, and labels."""
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(size, 3, self.side, self.side, generator=generator, dtype=torch.float64)
        return images * (1 + 0.5 * step) + 0.3 * step, torch.randint(CLASSES, (size,), generator=generator)


class ConvNet(nn.Module):
    """Four convolutions with BatchNorm; two stages share a convolution where ``tied``. The head is ``fc``, and the name
    of another layer begins so too; it is a norm and a linear layer where ``headed``."""

    def __init__(self, *, tied: bool = False, headed: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.stage1 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.fc_mix = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        linear = nn.Linear(8, CLASSES)
        self.fc = nn.Sequential(nn.BatchNorm1d(8), linear) if headed else linear
        if tied:
            self.fc_mix[0].weight = self.stage2[0].weight

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, 5)."""
        x = self.fc_mix(self.stage2(self.stage1(self.stem(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


class DeepNet(nn.Module):
    """Twelve residual blocks of width 4, so that block 10 is a later one than block 2. The head is ``head``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 8, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(12)
        )
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, 5)."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class OwnNorm(nn.BatchNorm2d):
    """BatchNorm under a name of its own, as libraries fuse it with an activation."""


class StochasticNet(nn.Module):
    """Three residual blocks, half of whose branches are dropped in train mode; all of it, head included, in ``net``."""

    def __init__(self) -> None:
        super().__init__()
        branches = [nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1, bias=False), OwnNorm(6), nn.ReLU()) for _ in range(3)]
        self.net = nn.Module()
        self.net.stem = nn.Sequential(nn.Conv2d(3, 6, 8, 8, bias=False), OwnNorm(6), nn.ReLU())
        self.net.blocks = nn.ModuleList(nn.Sequential(b, StochasticDepth(0.5, "row")) for b in branches)
        self.net.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, 5)."""
        x = self.net.stem(x)  # type: ignore[operator]
        for block in self.net.blocks:  # type: ignore[union-attr]
            x = x + block(x)
        logits: Tensor = self.net.fc(x.mean((2, 3)))  # type: ignore[operator]
        return logits


def _vit() -> nn.Module:
    from suites.vit.model import VisionTransformer

    return VisionTransformer(
        patch_size=16, width=16, layers=3, heads=2, mlp_width=24, image_size=32, num_classes=CLASSES, dropout=0.2
    )


def _torchvision_vit() -> nn.Module:
    from reference.libraries.small_networks import torchvision_vit_backbone

    return torchvision_vit_backbone(CLASSES)


def _timm_resnet() -> nn.Module:
    from reference.libraries.small_networks import timm_resnet_backbone

    return timm_resnet_backbone(CLASSES)


CONVNET = Backbone(
    name="a plain convolutional network",
    build=ConvNet,
    head="fc",
    layers=(("stem",), ("stage1",), ("stage2",), ("fc_mix",), ("fc",)),
)
TIED = Backbone(
    name="a network whose second and third stage share a weight",
    build=lambda: ConvNet(tied=True),
    head="fc",
    layers=(("stem",), ("stage1",), ("stage2", "fc_mix"), ("fc",)),
)
HEADED = Backbone(
    name="a network whose head is a BatchNorm and a linear layer",
    build=lambda: ConvNet(headed=True),
    head="fc",
    layers=CONVNET.layers,
)
TORCHVISION_VIT = Backbone(
    name="a small torchvision VisionTransformer",
    build=_torchvision_vit,
    head="heads.head",
    layers=(
        ("class_token", "conv_proj", "encoder.pos_embedding"),
        *((f"encoder.layers.encoder_layer_{i}",) for i in range(3)),
        ("heads.head",),
    ),
    norm="encoder.ln",
)
TIMM_RESNET = Backbone(
    name="a small timm ResNet",
    build=_timm_resnet,
    head="fc",
    layers=(("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",), ("fc",)),
)
DROPOUT = Backbone(
    name="a small VisionTransformer with dropout",
    build=_vit,
    head="head",
    layers=(
        ("patch_embedding", "class_token", "position_embedding"),
        *((f"layers.{i}",) for i in range(3)),
        ("head",),
    ),
    norm="norm",
)
DEEP = Backbone(
    name="a network of twelve blocks",
    build=DeepNet,
    head="head",
    layers=(("stem",), *((f"blocks.{i}",) for i in range(12)), ("head",)),
)
STOCHASTIC = Backbone(
    name="a network with stochastic depth, inside another module",
    build=StochasticNet,
    head="net.fc",
    layers=(("net.stem",), *((f"net.blocks.{i}",) for i in range(3)), ("net.fc",)),
)
PLAIN = (CONVNET, TORCHVISION_VIT, TIMM_RESNET)
"""Without randomness in train mode."""
