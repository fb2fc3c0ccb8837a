"""One small Vision Transformer written in many ways; every way is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reference.tests.written_attention import HEADS, WIDTH, FusedAttention

MLP, SIDE, PATCH, CLASSES, DEPTH = 128, 32, 8, 10, 2
TOKENS = (SIDE // PATCH) ** 2

Map = Callable[[Tensor], Tensor]


class LinearPatches(nn.Module):
    """A linear map of patches flattened as (row, column, channel), the order of einops' ``(p1 p2 c)``."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(PATCH * PATCH * 3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 3, 5, 1)
        return self.map(x.reshape(n, -1, PATCH * PATCH * c))


class UnfoldedPatches(nn.Module):
    """``unfold`` and a matrix kept as (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(PATCH * PATCH * 3, WIDTH) * 0.05)
        self.b = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.unfold(x, PATCH, stride=PATCH).transpose(1, 2) @ self.w + self.b


class WindowPatches(nn.Module):
    """Tensor.unfold along both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(PATCH * PATCH * 3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (n, c, rows, columns, p, p)
        return self.map(windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))


class LoopedPatches(nn.Module):
    """One patch after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(PATCH * PATCH * 3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rows = [band.split(PATCH, 3) for band in x.split(PATCH, 2)]
        return torch.stack([self.map(patch.flatten(1)) for row in rows for patch in row], 1)


class UnshuffledPatches(nn.Module):
    """``pixel_unshuffle``."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(PATCH * PATCH * 3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(F.pixel_unshuffle(x, PATCH).flatten(2).mT)


class ConvolvedPatches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2).mT


class HandwrittenNorm(nn.Module):
    """LayerNorm from means."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.c = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-6) * self.g + self.c


class BiasedNorm(HandwrittenNorm):
    """LayerNorm from ``var``."""

    def forward(self, x: Tensor) -> Tensor:
        scaled = (x - x.mean(dim=-1, keepdim=True)) / torch.sqrt(x.var(dim=-1, unbiased=False, keepdim=True) + 1e-6)
        return self.c + self.g * scaled


def native_norm() -> nn.Module:
    return nn.LayerNorm(WIDTH, eps=1e-6)


def concatenated(cls: Tensor, position: Tensor, patches: Tensor) -> Tensor:
    return torch.cat([cls.expand(len(patches), -1, -1), patches], dim=1) + position


def assigned(cls: Tensor, position: Tensor, patches: Tensor) -> Tensor:
    tokens = patches.new_empty(len(patches), TOKENS + 1, WIDTH)
    tokens[:, 0] = cls[:, 0]
    tokens[:, 1:] = patches
    return tokens.add_(position)


def apart(cls: Tensor, position: Tensor, patches: Tensor) -> Tensor:
    first = (cls + position[:, :1]).expand(len(patches), -1, -1)
    return torch.cat([first, patches + position[:, 1:]], dim=1)


class WrittenTransformer(nn.Module):
    """``patches``, ``attention`` and ``norm`` build the parts; ``join`` puts class token and positions in."""

    def __init__(
        self,
        patches: Callable[[], nn.Module] = ConvolvedPatches,
        attention: Callable[[], nn.Module] = FusedAttention,
        norm: Callable[[], nn.Module] = native_norm,
        join: Callable[[Tensor, Tensor, Tensor], Tensor] = concatenated,
    ) -> None:
        super().__init__()
        self.join = join
        self.a = nn.Parameter(torch.randn(1, TOKENS + 1, WIDTH) * 0.02)
        self.z = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.patches = patches()
        self.last, self.final = nn.Linear(WIDTH, CLASSES), norm()
        self.ups = nn.ModuleList(nn.Linear(WIDTH, MLP) for _ in range(DEPTH))
        self.downs = nn.ModuleList(nn.Linear(MLP, WIDTH) for _ in range(DEPTH))
        self.norms = nn.ModuleList(norm() for _ in range(2 * DEPTH))
        self.mixers = nn.ModuleList(attention() for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        x = self.join(self.z, self.a, self.patches(x))
        for depth in range(DEPTH):
            x = self.mixers[depth](self.norms[2 * depth](x)) + x
            hidden = F.gelu(self.ups[depth](self.norms[2 * depth + 1](x)))
            x = x + self.downs[depth](hidden)
        return {"tokens": x, "logits": self.last(self.final(x)[:, 0])}


class EncoderTransformer(nn.Module):
    """nn.TransformerEncoder; the class token and the patches have position embeddings of their own."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, MLP, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH, 1e-6), enable_nested_tensor=False)
        self.patches, self.head = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.Linear(WIDTH, CLASSES)
        self.token, self.token_position = (nn.Parameter(torch.zeros(1, 1, WIDTH)) for _ in range(2))
        self.patch_position = nn.Parameter(torch.zeros(1, TOKENS, WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        x = self.patches(x).flatten(2).mT + self.patch_position
        first = (self.token + self.token_position).expand(len(x), -1, -1)
        return self.head(self.encoder(torch.cat([first, x], 1))[:, 0]), None


class CheckpointedTransformer(WrittenTransformer):
    """Activations recomputed in the backward pass."""

    def forward(self, x: Tensor) -> Any:
        return checkpoint(super().forward, x, use_reentrant=False)


class OneVectorTransformer(nn.Module):
    """All parameters are slices of a single one."""

    def __init__(self) -> None:
        super().__init__()
        skeleton = WrittenTransformer()
        self.shapes = {name: parameter.shape for name, parameter in skeleton.named_parameters()}
        self.theta = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in skeleton.parameters()]))
        self.skeleton = (skeleton.double(),)  # in a tuple: its own parameters are not ours

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pieces = self.theta.split([shape.numel() for shape in self.shapes.values()])
        state = {n: piece.view(shape) for (n, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
        return torch.func.functional_call(self.skeleton[0], state, (x,))
