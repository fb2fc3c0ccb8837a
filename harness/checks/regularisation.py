"""Which dropout and stochastic depth a comparison in train mode runs with."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness.transplant import Grafted, Transplant, build_reference, run, transplant
from harness.workbench import Workbench


def regularisation(bench: Workbench) -> tuple[str, dict[str, float]]:
    """How element-wise draws are answered, and the rates that the references are built with.

    A subject may leave dropout and stochastic depth out (rate zero), as timm's factories do; where it draws, the
    published rates hold. Where the publication has no rates of its own, dropout is taken out on both sides. What it
    draws is seen at a small size and few classes, and holds at every other.
    """
    made = transplant(bench)
    images = bench.images(4, made.side, seed=5)
    draws = bench.shared("draws", lambda: run(bench, made.subject, images, train=True, gradients=False).draws)
    drawn = {d.scope(len(images)) for d in draws if not d.trivial}
    facts = bench.architecture.facts
    rates: dict[str, float] = {}
    if "drop_path" in facts:
        rates["drop_path"] = facts["drop_path"] if drawn & {"sample", "batch"} else 0.0
    if "dropout" in facts:
        rates["dropout"] = facts["dropout"] if "element" in drawn else 0.0
    return ("scaled" if facts.get("dropout") else "identity"), rates


def with_rates(bench: Workbench, made: Transplant, grafted: Grafted, rates: Mapping[str, float]) -> Grafted:
    """The same reference built with other dropout and stochastic depth rates; it shares the weights."""
    if not rates:
        return grafted
    key = f"rates-{grafted.reference.library}-{sorted(rates.items())}-{made.side}-{made.classes}"

    def make() -> torch.nn.Module:
        model = build_reference(
            bench, grafted.reference, made.classes, made.side, grafted.convention, rates=rates, device="meta"
        )
        assert model is not None
        return _holding(model, grafted.model)

    return Grafted(
        reference=grafted.reference,
        model=bench.shared(key, make),
        alignment=grafted.alignment,
        convention=grafted.convention,
    )


def _holding(model: torch.nn.Module, other: torch.nn.Module) -> torch.nn.Module:
    """``model`` with the parameters and buffers of ``other``, which has the same names."""
    for name, module in other.named_modules():
        there = model.get_submodule(name)
        for key, parameter in module.named_parameters(recurse=False):
            setattr(there, key, parameter)
        for key, buffer in module.named_buffers(recurse=False):
            setattr(there, key, buffer)
    return model
