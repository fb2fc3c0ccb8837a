"""Properties of Vision Transformers that any subject is held to, beside the shared checks."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.bench.bench import Bench
from harness.bench.passes import load, run_pass, state
from harness.bench.tolerances import relative
from harness.bench.weight_transplant import Transplant, Transplanted, transplant

ROUNDING = 1e-8
"""Reordering attention's sums changes float64 results by about 1e-15 a layer; a mask changes them visibly."""
SHARP = 30.0
"""Queries and keys of order one become dot products of order a thousand."""
VISIBLE = 1e-6
"""Least relative change of the logits when position embeddings of order one are exchanged."""


class _Attentions(TorchFunctionMode):
    """Notes every self-attention over exactly ``tokens`` tokens, fused or as a softmax."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.matrices: list[int] = []
        """Per call: how many attention matrices (batch times heads)."""
        self.closed: list[str] = []
        """Per call: what keeps tokens apart, or nothing."""
        self.row_sums: list[float] = []
        """Per softmax: the largest distance of a row's sum from one."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at attention; pass everything on."""
        out = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            self._fused(*args, **(kwargs or {}))
        elif func is F.multi_head_attention_forward:
            self._multi_head(inspect.signature(func).bind(*args, **(kwargs or {})).arguments)
        elif func in (torch.softmax, F.softmax, Tensor.softmax) and out.shape[-2:] == (self.tokens, self.tokens):
            out_of_all = _of_all_samples(out.detach())
            self.matrices.append(math.prod(out_of_all.shape[:-2]))
            self.closed.append("a mask before the softmax" if bool((out_of_all == 0).any()) else "")
            self.row_sums.append((out_of_all.sum(-1) - 1).abs().max().item())
        return out

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **rest: Any,
    ) -> None:
        if query.shape[-2] != self.tokens or key.shape[-2] != self.tokens:
            return
        self.matrices.append(math.prod(_of_all_samples(query).shape[:-2]))
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            attn_mask = ~attn_mask  # here true lets through, elsewhere it shuts
        self.closed.append(_closed(None if attn_mask is None else _of_all_samples(attn_mask), is_causal))

    def _multi_head(self, given: Mapping[str, Any]) -> None:
        """`nn.MultiheadAttention`, whose query is (tokens, batch, width), or (tokens, width) for one image."""
        if given["query"].shape[0] != self.tokens or given["key"].shape[0] != self.tokens:
            return
        query = _of_all_samples(given["query"])
        self.matrices.append(query.numel() // (self.tokens * query.shape[-1]) * given["num_heads"])
        masks = [_closed(given.get(name), bool(given.get("is_causal"))) for name in ("attn_mask", "key_padding_mask")]
        self.closed.append(next(filter(None, masks), ""))


def _of_all_samples(tensor: Tensor) -> Tensor:
    """With the samples in front, where `torch.vmap` maps over them and shows ``tensor`` as one sample's."""
    while torch._C._functorch.is_batchedtensor(tensor):
        place = torch._C._functorch.maybe_get_bdim(tensor)
        tensor = torch._C._functorch.get_unwrapped(tensor).movedim(place, 0)
    return tensor


def _closed(mask: Tensor | None, causal: bool) -> str:
    """What keeps tokens apart; empty where nothing does."""
    if mask is not None and bool((mask if mask.dtype is torch.bool else mask.isneginf()).any()):
        return "a mask"
    return "a causal mask" if causal else ""


def check_attention(bench: Bench) -> None:
    """Every token attends to every token, in as many heads as published; rows of attention sum to one."""
    made = transplant(bench)
    images = bench.images(2, made.side, seed=60)
    patch = bench.architecture.patch
    assert patch is not None
    with _Attentions((made.side // patch) ** 2 + 1) as seen:
        run_pass(bench, made.subject, images, train=False, gradients=False)
    layers, heads = int(bench.architecture.facts["layers"]), int(bench.architecture.facts["heads"])
    masked = [(index, what) for index, what in enumerate(seen.closed, start=1) if what]
    bench.notes.update(attentions=len(seen.matrices), heads=sum(seen.matrices) / len(images) / layers)
    assert not masked, (
        f"{bench.who}: attention number {masked[0][0]} of {len(seen.closed)} has {masked[0][1]}; expected every token "
        f"to attend to every token in all {layers} layers"
    )
    crooked = max(seen.row_sums, default=0.0)
    assert crooked < ROUNDING, f"{bench.who}: rows of attention sum to one only within {crooked:.1e}: expected 1"
    if len(seen.matrices) < layers:
        pytest.skip(f"{len(seen.matrices)} of {layers} attentions go through PyTorch's softmax or fused attention")
    total = sum(seen.matrices)
    assert total == layers * heads * len(images), (
        f"{bench.who}: attends in {total / len(images) / layers:g} heads per layer; expected {heads} "
        f"({bench.architecture.source})"
    )


def check_sharp_attention(bench: Bench) -> None:
    """In float32, logits and gradients stay finite where attention is nearly one-hot, as it becomes in long training.

    Scales of all norms are raised until dot products of queries and keys lie far beyond 89, whose exponential float32
    can't hold: a softmax has to subtract the row's maximum first.
    """
    made = transplant(bench)
    grafted = made.grafted[0]
    published = state(grafted.model)
    scales = [f"{n}.weight" for n, m in grafted.model.named_modules() if isinstance(m, nn.LayerNorm)]
    raised = {**published, **{n: SHARP * published[n] for n in scales}}
    images = bench.images(2, made.side, seed=62).float()

    def infinite(model: nn.Module, values: Mapping[str, Tensor]) -> list[str]:
        load(model, values)
        logits = bench.logits(model, images)
        bench.backward(logits.sum())
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return [n for n, t in {"the logits": logits, **gradients}.items() if not bool(torch.isfinite(t).all())]

    single = bench.small_copy().float().eval().requires_grad_(True)
    if infinite(copy.deepcopy(grafted.model).float(), raised):
        pytest.skip(f"{grafted.title} itself overflows under these weights")
    found = infinite(single, grafted.alignment.to_subject(raised))
    assert not found, (
        f"{bench.who}: in float32 under norms {SHARP:g} times as large {', '.join(found[:3])} "
        f"{'is' if len(found) == 1 else 'are'} not finite, where those of {grafted.title} are; expected finite "
        "numbers: a softmax without the row's maximum subtracted overflows at dot products of 89"
    )


def check_patch_order(bench: Bench) -> None:
    """Without position embeddings the order of the patches is irrelevant, with them not; the class token has one."""
    made = transplant(bench)
    patch = bench.architecture.patch
    assert patch is not None
    images = bench.images(2, made.side, seed=61)
    generator = torch.Generator().manual_seed(bench.seed)
    order = torch.randperm((made.side // patch) ** 2, generator=generator)
    shuffled = permute_patches(images, patch, order.roll(1) if torch.equal(order, order.sort().values) else order)
    grafted, name = _positions(made)
    published = state(grafted.model)
    embedding = published[name]
    with_positions = _change(bench, made, images, shuffled)
    kept = {key: value.clone() for key, value in state(made.subject).items()}
    try:
        load(made.subject, grafted.alignment.to_subject({**published, name: torch.zeros_like(embedding)}))
        without = _change(bench, made, images, shuffled)
        first = embedding.clone()
        first.view(-1, embedding.shape[-1])[0] *= -1
        load(made.subject, kept)
        before = run_pass(bench, made.subject, images, train=False, gradients=False).logits
        load(made.subject, grafted.alignment.to_subject({**published, name: first}))
        class_position = relative(run_pass(bench, made.subject, images, train=False, gradients=False).logits, before)
    finally:
        load(made.subject, kept)
    bench.notes.update(with_positions=with_positions, without=without, class_position=class_position)
    assert without <= ROUNDING, (
        f"{bench.who}: with its position embeddings at zero, exchanging patches changes the logits by {without:.1e} "
        f"(relative); expected at most {ROUNDING:.0e}: a mask, or something else that depends on a token's place"
    )
    assert with_positions >= VISIBLE, (
        f"{bench.who}: exchanging patches changes the logits only by {with_positions:.1e} (relative); expected at "
        f"least {VISIBLE:.0e}: the position embeddings are not added to the patches"
    )
    assert class_position >= VISIBLE, (
        f"{bench.who}: changing the class token's position embedding changes the logits only by {class_position:.1e} "
        f"(relative); expected at least {VISIBLE:.0e}"
    )


def permute_patches(images: Tensor, patch: int, order: Tensor) -> Tensor:
    """Images (batch, channels, side, side) whose patch number ``i``, row by row, is the old number ``order[i]``."""
    side = images.shape[-1]
    columns = F.unfold(images, patch, stride=patch)  # (batch, channels * patch**2, patches)
    return F.fold(columns[..., order], side, patch, stride=patch)


def _change(bench: Bench, made: Transplant, images: Tensor, others: Tensor) -> float:
    first, second = (run_pass(bench, made.subject, i, train=False, gradients=False).logits for i in (images, others))
    return relative(second, first)


def _positions(made: Transplant) -> tuple[Transplanted, str]:
    """The first reference, and its tensor with one row for the class token and each patch."""
    grafted = made.grafted[0]
    names = [n for n, p in grafted.model.named_parameters() if p.ndim == 3 and p.shape[1] > 1]
    assert len(names) == 1, f"{grafted.title}: expected one position embedding, found {names}"
    return grafted, names[0]
