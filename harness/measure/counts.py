"""Parameters, FLOPs and the memory traffic of operators; work that was left out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from harness.measure.workload import Inference, Workload, weightless
from harness.numerics.flop_count import conv_backward_flops, without_grad

aten = torch.ops.aten


def count_parameters(model: nn.Module) -> int:
    """Trainable and frozen parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


@dataclass(frozen=True, kw_only=True)
class Count:
    """What one step over the batch asks for, whoever does it and however fast."""

    flops: int
    """Of matrix products and convolutions; a multiply-add counts as two."""
    traffic: int
    """Bytes that all operators read and write, were nothing kept in a cache or fused."""
    dtypes: tuple[str, ...]
    """In which the matrix products and convolutions gave their results, sorted."""


def count(work: Workload) -> Count:
    """Count a step without doing it, on tensors without storage; where the model can't run so, on itself.

    Under autocast on fake tensors, which know their device, else on the meta device, which is quicker.
    """
    try:
        if work.dtype is torch.float32:
            return watched(work.on(copy.deepcopy(work.model).to("meta"), work.batch.to("meta")))
        with weightless(work) as fake:
            return watched(fake)
    except Exception:  # control flow that asks for values, constants on another device: the model itself will do
        return watched(work)


def watched(work: Workload) -> Count:
    """Do one step of ``work``, but for the optimizer's and not compiled, and count what came by."""
    work = work.on(work.model, work.batch)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: conv_backward_flops})
    with _Traffic() as traffic, counter:
        if isinstance(work, Inference):
            with without_grad(work.model):
                work()
        else:
            work.loss().backward()
            work.optimizer.zero_grad(set_to_none=True)
    return Count(
        flops=int(counter.get_total_flops()), traffic=traffic.bytes, dtypes=tuple(sorted(map(_name, traffic.dtypes)))
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of every operator's tensors, views aside, and notes the dtype of those that have a FLOP count.

    A view (its output shares its input's storage and it writes nothing) moves no byte.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not (func.is_view or func in (aten.detach.default, aten._unsafe_view.default)):
            self.bytes += sum(t.numel() * t.element_size() for t in given + made)
        if func.overloadpacket in flop_registry:
            self.dtypes.update(t.dtype for t in made)
        return out


LEAST_SHARE = 0.95
"""Of the reference's floating-point operations. Correct implementations of one architecture ask for the same products:
what they may leave out (a folded bias, a product with a constant) is far below one in twenty."""
BEYOND_PEAK = 3.0
"""Times what the machine reached multiplying matrices. Winograd's convolution of 3x3 filters does with 1/2.25 of the
products, which a network of nothing else could gain at most; the rest is for a peak that was measured low."""
SAME = 1e-6
"""Relative difference of two outputs below which they are the same answer."""


def missing_work(subject: Count, parameters: int, references: Sequence[tuple[str, Count, int]]) -> Iterator[str]:
    """Fewer operations or parameters than any reference, given as (name, count, parameters)."""
    if not references:
        return
    name, least, _ = min(references, key=lambda r: r[1].flops)
    if subject.flops < LEAST_SHARE * least.flops:
        yield f"asks for {subject.flops / 1e9:.3g} GFLOP where {name} asks for {least.flops / 1e9:.3g}: layers dropped"
    name, _, fewest = min(references, key=lambda r: r[2])
    if parameters < LEAST_SHARE * fewest:
        yield f"has {parameters:,} parameters where {name} has {fewest:,}: layers dropped"


def skipped_work(work: Workload, asked: Count) -> Iterator[str]:
    """What one more step, looked at closely, shows: a cached output, or a lower precision than was asked for.

    ``asked`` is the count of the same step on tensors that nothing can be remembered of. Leaves other images in the
    batch.
    """
    done = watched(work)
    if done.flops < LEAST_SHARE * asked.flops:
        yield f"did {done.flops / 1e9:.3g} of {asked.flops / 1e9:.3g} GFLOP once warm: output cached"
    else:
        before = work.output().double()
        work.batch.renew()
        after = work.output().double()
        if bool((before - after).abs().max() <= SAME * before.abs().max()):
            yield "gave the same output for other images: output cached"
    lower = [name for name in done.dtypes if name in ("bfloat16", "float16") or "float8" in name or "int8" in name]
    if work.dtype is torch.float32 and lower:
        yield f"multiplied in {', '.join(lower)} where float32 was asked for: silent lower precision"


def impossible_speed(flops: float, seconds: float, peak: float) -> str:
    """Why a step of ``flops`` can't take ``seconds`` on a machine that multiplies at ``peak`` FLOP/s; "" where it can.

    ``flops`` is what the work asks for, by the reference's count where there is one.
    """
    reached = flops / seconds
    if reached <= BEYOND_PEAK * peak:
        return ""
    return (
        f"did {flops / 1e9:.3g} GFLOP in {seconds * 1e3:.3g} ms, {reached / peak:.1f} times what this machine "
        "can multiply: work skipped, or not waited for"
    )
