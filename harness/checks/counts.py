"""Parameters and multiply-adds against the published facts."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.bench.bench import Bench
from harness.bench.passes import run_pass
from harness.bench.tolerances import CEILING, rowwise
from harness.bench.weight_transplant import transplant
from harness.errors import SubjectError, some_of
from harness.numerics.flop_count import multiply_adds


def check_parameters(bench: Bench) -> None:
    """Exactly the published number of parameters, all trainable, of the default dtype, each counted once."""
    model = bench.on_meta()
    published = bench.architecture.parameters
    count = sum(p.numel() for p in model.parameters())
    bench.notes.update(parameters=count, published=published)
    assert count == published, (
        f"{bench.who}: has {count:,} parameters for 1,000 classes; expected {published:,} "
        f"({bench.architecture.source}), so {abs(count - published):,} {'too many' if count > published else 'missing'}"
        + _guess(bench, count)
    )
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert not frozen, f"{bench.who}: starts with parameters that do not train: {some_of(frozen)}"
    kinds = {n: p.dtype for n, p in model.named_parameters() if p.dtype is not torch.get_default_dtype()}
    assert not kinds, (
        f"{bench.who}: as built, {', '.join(f'{n} is {d}' for n, d in list(kinds.items())[:3])}; expected "
        f"{torch.get_default_dtype()}, torch's default, for every parameter (sharded training refuses a mixture)"
    )


def _guess(bench: Bench, count: int) -> str:
    same = [a.name for a in bench.family.architectures if a.parameters == count]
    return f"; {count:,} is the count of {same[0]}" if same else ""


def check_multiply_adds(bench: Bench) -> None:
    """The published number of multiply-adds for one image of the published size.

    Only convolutions and matrix products are counted. Attention as elementwise products, or a kernel laid out anew
    with zeros in it, is counted as less or more than it is; where the number is another one, the network is right
    if it computes what the reference computes at that size, which no stride, width or group count elsewhere leaves so.
    """
    side = bench.architecture.input_size
    try:
        count = multiply_adds(bench.on_meta(), torch.empty(1, 3, side, side, device="meta"))
    except Exception:  # control flow that depends on values needs values
        model = bench.build().eval()
        with torch.no_grad():
            bench.logits(model, torch.zeros(1, 3, side, side), 1000)  # a failure of the subject is said in its name
        with sdpa_kernel(SDPBackend.MATH):  # fused attention on the CPU is not counted
            count = multiply_adds(model, torch.zeros(1, 3, side, side))
    published, tolerance = bench.architecture.multiply_adds, bench.architecture.multiply_adds_tolerance
    bench.notes.update(multiply_adds=count, published=published)
    if abs(count - published) > tolerance * published and _computes_the_same(bench):
        bench.notes["written"] = "otherwise: the count is not the published one, the logits are the reference's"
        return
    assert abs(count - published) <= tolerance * published, (
        f"{bench.who}: takes {count / 1e6:,.1f} million multiply-adds for one image of {side}x{side}; expected "
        f"{published / 1e6:,.1f} within {tolerance:.1%} ({bench.architecture.source}). A stride, a width or a group "
        "count at another place changes this and leaves the parameters alone"
    )


def _computes_the_same(bench: Bench) -> bool:
    """Whether logits at the published size are the reference's, with its weights. Large networks are not tried."""
    if bench.architecture.large:
        return False
    try:
        made = transplant(bench, full_size=True)
        images = bench.images(1, made.side, seed=6)
        ours, theirs = (
            run_pass(bench, model, images, train=False, gradients=False, classes=made.classes).logits
            for model in (made.subject, made.grafted[0].model)
        )
    except SubjectError:
        return False
    return rowwise(ours, theirs) <= CEILING
