"""The residual network under the pyramid, without its head."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.ops import FrozenBatchNorm2d


class Backbone(nn.Module):
    """Stem and four stages of a ResNet; the first ``5 - trainable`` of these five parts are frozen.

    Frozen parts that still have statistics of their own are held in eval mode, or the statistics would drift.
    """

    def __init__(self, resnet: ResNet, trainable: int = 5) -> None:
        super().__init__()
        if not 0 <= trainable <= 5:
            raise ValueError(f"trainable={trainable}: expected 0 (all frozen) to 5 (none)")
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.stages = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4])
        self.widths = [int(stage[-1].conv1.in_channels) for stage in (resnet.layer2, resnet.layer3, resnet.layer4)]
        self.frozen = 5 - trainable
        for part in self.held():
            part.requires_grad_(False)

    def held(self) -> list[nn.Module]:
        """The frozen parts, input first."""
        return [self.stem, *self.stages][: self.frozen]

    def train(self, mode: bool = True) -> Backbone:
        """As any module, but the frozen parts stay in eval mode."""
        super().train(mode)
        for part in self.held():
            part.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """C3, C4 and C5 at strides 8, 16 and 32."""
        features = self.stages[0](self.stem(images))
        found = []
        for stage in self.stages[1:]:
            features = stage(features)
            found.append(features)
        return found


def norm_of(name: str) -> type[nn.Module]:
    """``batch`` learns its statistics (from scratch), ``frozen`` keeps those of the weights (fine-tuning)."""
    known: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}
    if name not in known:
        raise ValueError(f"norm={name!r}: known: {', '.join(known)}")
    return known[name]
