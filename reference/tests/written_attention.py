"""Self-attention written in many ways; every way is right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS = 64, 4
HEAD = WIDTH // HEADS


class FusedAttention(nn.Module):
    """One projection, rows as (query key value, head, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.inner(x).view(n, t, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        return self.outer(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, WIDTH))


class HeadMajorAttention(FusedAttention):
    """Rows as (head, query key value, width); softmax written out; scale on the query."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.inner(x).view(n, t, HEADS, 3 * HEAD).transpose(1, 2).chunk(3, dim=-1)
        weights = torch.softmax((q * HEAD**-0.5) @ k.mT, dim=-1)
        return self.outer((weights @ v).transpose(1, 2).flatten(2))


class InterleavedAttention(FusedAttention):
    """Rows as (width, query key value, head)."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.inner(x).view(n, t, HEAD, 3, HEADS).permute(3, 0, 4, 1, 2).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)  # (n, heads, t, head)
        return self.outer(out.permute(0, 2, 3, 1).reshape(n, t, WIDTH))  # columns as (width, head)


class SplitAttention(nn.Module):
    """Separate projections, created in another order than used."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.value, self.key, self.query = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        heads = [part(x).view(n, t, HEADS, HEAD).transpose(1, 2) for part in (self.key, self.query, self.value)]
        scores = torch.matmul(heads[1], heads[0].transpose(-2, -1)) / HEAD**0.5
        return self.out(torch.matmul(F.softmax(scores, -1), heads[2]).transpose(1, 2).contiguous().view(n, t, WIDTH))


class KeyValueAttention(nn.Module):
    """The query alone, key and value together."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.o = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        k, v = self.kv(x).view(n, t, 2, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        q = self.q(x).view(n, t, HEADS, HEAD).transpose(1, 2)
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class EinsumAttention(nn.Module):
    """A weight for each head, all contractions by einsum, biases added by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv = (nn.Parameter(torch.randn(HEADS, WIDTH, HEAD) * 0.1) for _ in range(3))
        self.bq, self.bk, self.bv = (nn.Parameter(torch.zeros(HEADS, 1, HEAD)) for _ in range(3))
        self.wo = nn.Parameter(torch.randn(HEADS, HEAD, WIDTH) * 0.1)
        self.bo = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q = torch.einsum("btd,hde->bhte", x, self.wq) + self.bq
        k = torch.einsum("btd,hde->bhte", x, self.wk) + self.bk
        v = torch.einsum("btd,hde->bhte", x, self.wv) + self.bv
        weights = torch.einsum("bhqe,bhke->bhqk", q, k).mul(HEAD**-0.5).softmax(-1)
        return torch.einsum("bhqk,bhke,hed->bqd", weights, v, self.wo) + self.bo


class BroadcastAttention(nn.Module):
    """Weights of the heads broadcast over the batch by matmul; keys transposed beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, HEADS, WIDTH, HEAD) * 0.1)
        self.b = nn.Parameter(torch.zeros(3, HEADS, 1, HEAD))
        self.o = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (x[:, None] @ w + b for w, b in zip(self.w, self.b, strict=True))
        out = torch.softmax(q @ k.transpose(2, 3) * HEAD**-0.5, 3) @ v
        return self.o(out.permute(0, 2, 1, 3).flatten(2))


class HandwrittenSoftmaxAttention(FusedAttention):
    """Heads before the batch, and the softmax from exp and sum."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        parts = self.inner(x).split(WIDTH, dim=-1)
        q, k, v = (part.view(n, t, HEADS, HEAD).permute(2, 0, 1, 3).reshape(-1, t, HEAD) for part in parts)
        scores = torch.bmm(q, k.mT) / HEAD**0.5
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        out = torch.bmm(weights / weights.sum(-1, keepdim=True), v)
        return self.outer(out.view(HEADS, n, t, HEAD).permute(1, 2, 0, 3).flatten(2))


class KeyFirstAttention(FusedAttention):
    """Einsum with the keys before the queries and the heads last."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.inner(x).view(n, t, 3, HEADS, HEAD).unbind(2)
        weights = torch.einsum("bqhd,bkhd->bkqh", q, k).div(HEAD**0.5).softmax(1)
        return self.outer(torch.einsum("bkqh,bkhd->bqhd", weights, v).reshape(n, t, WIDTH))


class SummedAttention(FusedAttention):
    """Both products elementwise, then a sum."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x).unflatten(2, (3, HEADS, HEAD)).permute(2, 0, 3, 1, 4)
        weights = ((q[:, :, :, None] * k[:, :, None]).sum(-1) * HEAD**-0.5).softmax(-1)
        return self.outer((weights[..., None] * v[:, :, None]).sum(3).transpose(1, 2).flatten(2))


class SummedKeyFirstAttention(FusedAttention):
    """The same with the keys on the rows, and the tokens before the heads."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x).unflatten(2, (3, HEADS, HEAD)).unbind(2)
        weights = torch.sum(k[:, :, None] * q[:, None], -1).mul(HEAD**-0.5).softmax(1)  # (n, keys, queries, heads)
        return self.outer(torch.sum(v[:, :, None] * weights[..., None], 1, keepdim=True).squeeze(1).flatten(2))


class HeadsAddedAttention(FusedAttention):
    """Each head is projected by its columns, and added to the rest in place."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x).unflatten(2, (3, HEADS, HEAD)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).unbind(1)
        columns = self.outer.weight.split(HEAD, 1)
        total = mixed[0] @ columns[0].t()
        for head, part in zip(mixed[1:], columns[1:], strict=True):
            total += head @ part.t()
        return total + self.outer.bias


class MappedAttention(FusedAttention):
    """Written for one image's tokens and mapped over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(self.single)(x)

    def single(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x).unflatten(1, (3, HEADS, HEAD)).permute(1, 2, 0, 3)
        return self.outer(((q @ k.mT * HEAD**-0.5).softmax(-1) @ v).transpose(0, 1).flatten(1))


class LoopedAttention(FusedAttention):
    """One head after the other, out of one projection."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.split(HEAD, -1) for part in self.inner(x).chunk(3, -1))
        heads = [(q[h] @ k[h].mT * HEAD**-0.5).softmax(-1) @ v[h] for h in range(HEADS)]
        return self.outer(torch.cat(heads, -1))


class HeadModulesAttention(nn.Module):
    """A module for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.ModuleList(nn.Linear(WIDTH, HEAD) for _ in range(3)) for _ in range(HEADS))
        self.outer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = [F.scaled_dot_product_attention(*(part(x) for part in head.children())) for head in self.heads]
        return self.outer(torch.cat(heads, -1))


class LibraryAttention(nn.Module):
    """nn.MultiheadAttention with the tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.mha(x, x, x)[0].transpose(0, 1)
