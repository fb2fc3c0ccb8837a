"""Too fast to be true: signs that a subject skipped the work whose time was taken.

None of them says how fast a subject is; each says why its time is not the time of the work that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from harness.measure.counts import Count, watched
from harness.measure.workload import Workload

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
