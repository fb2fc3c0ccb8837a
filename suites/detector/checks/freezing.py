"""Fine-tuning: what the factory's own keywords must hold."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from harness.bench.bench import Bench
from harness.errors import SubjectError
from suites.detector.checks.behaviour import ANNOTATED, EXACT
from suites.detector.checks.bench import CLASSES, SMALL, detect, images, losses, target

TRAINABLE = ("trainable", "trainable_backbone_layers", "trainable_layers")


def _with(bench: Bench, **keywords: Any) -> nn.Module | None:
    """A small float64 detector, or None where the factory has no such keywords, or takes other values for them."""
    size: dict[str, Any] = {"min_size": 64, "max_size": 128}
    for extra in (SMALL, {}):
        try:
            return bench.build(CLASSES, **size, **extra, **keywords).double()
        except SubjectError as error:
            if "unexpected keyword" not in str(error) and (not keywords or _with(bench) is None):
                raise
    return None


def _switch(bench: Bench, keyword: str) -> bool:
    """Whether the keyword is one for on and off."""
    parameter = inspect.signature(bench.subject.factory).parameters.get(keyword)
    return parameter is not None and isinstance(parameter.default, bool)


def check_frozen_stages(bench: Bench) -> None:
    """What is frozen by the factory's keyword stays bit for bit in a training step, running statistics included."""
    keyword = bench.subject.keyword(TRAINABLE)
    model = _with(bench, **{keyword: 2}) if keyword and not _switch(bench, keyword) else None
    if model is None:
        pytest.skip(f"the factory has none of the keywords {', '.join(TRAINABLE)} with a number: nothing is frozen")
    model.train()
    held = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert held, f"{bench.who}: {keyword}=2 freezes no parameter"
    first = [n for n, p in model.named_parameters() if p.ndim == 4 and p.shape[1] == 3][:1]  # what reads the image
    assert held.issuperset(first), (
        f"{bench.who}: with {keyword}=2 {', '.join(first)} learns, while {sorted(held)[0]} and others are held; "
        "expected the last two parts to learn, and what lies before them to be frozen"
    )
    owners = {n.rpartition(".")[0] for n in held}
    before = {n: t.clone() for n, t in model.state_dict().items() if n in held or n.rpartition(".")[0] in owners}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    found = losses(bench, model, images(bench, (64, 64), (64, 64)), [target(*ANNOTATED)] * 2)
    bench.backward(torch.stack(list(found.values())).sum())
    optimizer.step()
    after = model.state_dict()
    changed = [n for n, t in before.items() if not torch.equal(after[n], t)]
    assert not changed, (
        f"{bench.who}: with {keyword}=2 a training step changes {', '.join(changed[:4])}"
        f"{f' and {len(changed) - 4} more' if len(changed) > 4 else ''} of layers that are frozen"
    )


def check_frozen_norm(bench: Bench) -> None:
    """With the same weights, every norm of a detector with frozen norms gives what BatchNorm does in eval mode, and a
    training step moves no statistic."""
    models = [_with(bench, norm=n) for n in ("batch", "frozen")] if bench.subject.keyword(("norm",)) else []
    if not models or any(m is None for m in models):
        pytest.skip("the factory has no keyword norm with the values batch and frozen")
    learning, frozen = (m.eval() for m in models if m is not None)
    generator = torch.Generator().manual_seed(bench.seed)
    with torch.no_grad():
        for name, buffer in learning.named_buffers():
            if name.endswith("running_var"):  # small, so that eps shows
                buffer.copy_(1e-3 * (0.5 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64)))
    problem = frozen.load_state_dict(learning.state_dict(), strict=False)
    assert not problem.missing_keys, f"{bench.who}: with norm='frozen' there are also {problem.missing_keys[:4]}"
    names = [n for n, m in learning.named_modules() if "running_var" in m._buffers]
    outputs = [_outputs(bench, model, names) for model in (learning, frozen)]
    for name in (n for n in names if all(n in found for found in outputs)):
        expected, got = (found[name] for found in outputs)
        off = float((got - expected).norm() / expected.norm())
        assert off <= EXACT, (
            f"{bench.who}: with norm='frozen' {name} differs from BatchNorm in eval mode by {off:.2g} with the same "
            "statistics; is eps the same?"
        )
    before = {n: b.clone() for n, b in frozen.named_buffers()}
    losses(bench, frozen, images(bench, (64, 64), (64, 64)), [target(*ANNOTATED)] * 2)
    moved = [n for n, b in frozen.named_buffers() if n in before and not torch.equal(b, before[n])]
    assert not moved, f"{bench.who}: with norm='frozen' a pass in train mode changes {', '.join(moved[:4])}"


def _outputs(bench: Bench, model: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    """What the modules of these names give for one image, in eval mode."""
    kept: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda m, given, output, n=n: kept.__setitem__(n, output.clone()))
        for n, module in model.named_modules()
        if n in names
    ]
    detect(bench, model, images(bench, (64, 64)))
    for handle in handles:
        handle.remove()
    return kept
