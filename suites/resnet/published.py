"""The network that a tutorial publishes under the name ResNet-50, re-expressed.

It stacks two-convolution blocks, (3, 4, 6, 3) of them, under a 512-wide head. By depth, widths and its 21,797,672
parameters that is ResNet-34 (He et al. 2015, Table 1): ResNet-50 has three-convolution bottlenecks and a 2048-wide
head. So the one network stands here under both names: it conforms as `resnet34`, and as `resnet50` it does not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and a shortcut that is empty where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) -> (batch, outputs, height / stride, width / stride)."""
        return torch.relu(self.main(x) + self.shortcut(x))


class Listing(nn.Module):
    """Stem, (3, 4, 6, 3) blocks, average pooling and a 512-wide head."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for number, (width, count) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), start=1):
            blocks = [Block(inputs if i == 0 else width, width, 2 if i == 0 < number - 1 else 1) for i in range(count)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inputs = width
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, num_classes)."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet34(num_classes: int = 1000) -> Listing:
    """The listing under the name that its structure has."""
    return Listing(num_classes)


def resnet50(num_classes: int = 1000) -> Listing:
    """The listing under the name that the tutorial gives it."""
    return Listing(num_classes)
