"""What a freshly built network starts with."""

from __future__ import annotations

import math

import torch
from torch import nn

from harness.checks.state import fresh
from harness.transplant import transplant
from harness.workbench import Workbench

LARGEST_FIRST_LOSS = 30.0
"""Of a batch of four in ten classes. Of the customary initial heads the widest (uniform within 1/sqrt(classes), over
2,560 features) gives logits of deviation 5.5 at most, and with them a loss of 8.5, give or take 4.2."""

WIDEST = 5.0
"""Standard deviations of He et al. 2015 (arXiv:1502.01852) that an initial weight may have, from the smaller of its two
fans. Customary initialisations have at most one."""


def check_initialisation(bench: Workbench) -> None:
    """Freshly built weights are finite, differ between seeds, break symmetry, and give finite loss and gradients."""
    model, second = fresh(bench).models
    matrices = [(n, p.detach()) for n, p in model.named_parameters() if p.ndim >= 2 and p.numel() > 64]
    bad = [n for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    assert not bad, f"{bench.who}: freshly built, {', '.join(bad[:5])} is not finite"
    constant = [n for n, p in matrices if bool((p == p.flatten()[0]).all())]
    nonzero = [n for n in constant if bool(dict(matrices)[n].any())]
    assert not nonzero, f"{bench.who}: freshly built, all values of {', '.join(nonzero[:5])} are equal"
    assert 2 * len(constant) <= len(matrices), (
        f"{bench.who}: freshly built, every value of {', '.join(constant[:5])} is zero, so the units "
        "can't learn different things"
    )
    other = dict(second.named_parameters())
    same = [n for n, p in matrices if n not in constant and n in other and torch.equal(p, other[n].detach())]
    assert not same, f"{bench.who}: {', '.join(same[:5])} starts with the same values under different seeds"
    model.train()
    logits = bench.logits(model, bench.images(4, bench.small_side(), seed=47).float())
    loss = torch.nn.functional.cross_entropy(logits.float(), torch.arange(4))
    value = loss.item()
    assert math.isfinite(value), f"{bench.who}: freshly built, the loss of a training batch is {value}"
    bench.backward(loss)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    wild = [n for n, g in gradients.items() if not bool(torch.isfinite(g).all())]
    assert not wild, f"{bench.who}: freshly built, the gradient of {', '.join(wild[:5])} is not finite"
    assert any(bool(gradients[n].any()) for n, _ in matrices if n in gradients), (
        f"{bench.who}: freshly built, no weight matrix gets a gradient: the network is dead (norms or biases start at "
        "values that let nothing through)"
    )
    _check_statistics(bench, second)
    _check_spread(bench, second)
    assert value < LARGEST_FIRST_LOSS, (
        f"{bench.who}: freshly built, the loss of a training batch is {value:.1f}; expected near "
        "log(10) = 2.3: the initial weights are far too large"
    )


def _check_statistics(bench: Workbench, model: nn.Module) -> None:
    """Running statistics start at mean 0 and variance 1, so that eval mode works before the first training step."""
    grafted = transplant(bench).grafted[0]
    fresh = {n: b.double() for n, b in model.named_buffers() if b.is_floating_point()}
    for name, buffer in grafted.alignment.to_reference(fresh).items():
        for kind, start in (("running_mean", 0.0), ("running_var", 1.0)):
            if name.endswith(kind):
                assert bool((buffer == start).all()), (
                    f"{bench.who}: freshly built, {', '.join(grafted.alignment.subject_names(name))} (there {name}) "
                    f"is not {start:g} everywhere"
                )


def _check_spread(bench: Workbench, model: nn.Module) -> None:
    """No convolution or linear layer starts with weights so large that they swamp every step that is taken."""
    grafted = transplant(bench).grafted[0]
    fresh = {n: p.detach() for n, p in model.named_parameters()}
    starts = grafted.alignment.to_reference(fresh)
    for name, module in grafted.model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and f"{name}.weight" in starts:
            weight = starts[f"{name}.weight"]
            groups = module.groups if isinstance(module, nn.Conv2d) else 1
            fan_in = weight[0].numel()
            fan_out = fan_in // weight.shape[1] * len(weight) // groups
            spread, widest = weight.double().std().item(), WIDEST * math.sqrt(2 / min(fan_in, fan_out))
            assert spread <= widest, (
                f"{bench.who}: freshly built, {', '.join(grafted.alignment.subject_names(f'{name}.weight'))} has a "
                f"standard deviation of {spread:.2g}; expected at most {widest:.2g}, {WIDEST:g} times what He "
                "initialisation gives it"
            )
