"""Feature pyramid P3 to P7 (Lin et al. 2017, arXiv:1612.03144; P6 and P7 as in Lin et al. 2017b, arXiv:1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """C3, C4, C5 in, P3, P4, P5, P6, P7 out, all ``width`` channels wide.

    The upsampling goes to the lateral's own size, so that odd sizes fit. The smoothing convolutions stand outside the
    top-down recursion: what is passed down is not smoothed.
    """

    def __init__(self, in_widths: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(w, width, 1) for w in in_widths)
        self.smoothings = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in in_widths)
        self.p6 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The levels, finest first; each (batch, width, ceil(side / stride)) with strides 8, 16, 32, 64, 128."""
        top = self.laterals[-1](features[-1])
        levels = [self.smoothings[-1](top)]
        for index in range(len(features) - 2, -1, -1):
            lateral = self.laterals[index](features[index])
            top = lateral + self.upsampled(top, lateral)
            levels.insert(0, self.smoothings[index](top))
        levels.append(self.p6(levels[-1]))
        levels.append(self.p7(F.relu(levels[-1])))  # the ReLU is only before P7
        return levels

    def upsampled(self, top: Tensor, lateral: Tensor) -> Tensor:
        """Nearest neighbours, to the lateral's height and width."""
        return F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
