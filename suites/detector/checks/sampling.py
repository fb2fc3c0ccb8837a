"""How many anchors and proposals the losses look at, and that chance decides which.

Where every candidate of a kind has the same score, a mean over the sampled ones depends on how many of each kind there
are, not on which were drawn. So the counts are compared with torchvision's exactly, in float64, whatever the draws.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.bench.bench import Bench
from suites.detector.checks.alignment import Twins, twins
from suites.detector.checks.bench import images, losses, target
from suites.detector.checks.parity import Annotated, compare_losses

OBJECTNESS, CLASSIFIER = "net.rpn.head.cls_logits", "net.roi_heads.box_predictor.cls_score"
SIDE = 128
"""Of an image with 1,023 anchors, four times as many as are sampled."""
CROWD: Annotated = (
    [[x - 16.0, y - 16.0, x + 16.0, y + 16.0] for x in range(16, 113, 8) for y in range(16, 113, 8)],
    [2] * 169,
)
"""Each is an anchor of P3, so that more than half of a sample of 256, or a quarter of one of 512, could be positive."""
ONE: Annotated = ([[30.0, 40.0, 90.0, 100.0]], [2])
LARGE = 384
SPREAD: Annotated = (
    [[x, y, x + 40.0, y + 44.0] for x in (20.0, 110.0, 200.0, 320.0) for y in (30.0, 120.0, 220.0, 310.0)],
    [3] * 16,
)
"""On an image with more proposals than are kept; some positive ones are among the last of them."""
SEEDS = (1, 2, 3)


@torch.no_grad()
def _level(made: Twins, layer: str, scores: Callable[[Tensor], Tensor]) -> None:
    """Give every candidate the same scores, whatever its features are."""
    made.reference.get_parameter(f"{layer}.weight").zero_()
    bias = made.reference.get_parameter(f"{layer}.bias")
    bias.copy_(scores(bias))
    made.share()


def _compare(bench: Bench, made: Twins, annotated: Annotated, side: int, name: str, where: str) -> None:
    given, targets = images(bench, (side, side), (side, side)), [target(*annotated), target(*ONE)]
    got, expected = (losses(bench, m.net, given, targets) for m in (made.subject, made.reference))
    compare_losses(bench, {n: v for n, v in got.items() if n == name}, {name: expected[name]}, where)


def check_parity_sampling(bench: Bench) -> None:
    """Of an image's anchors 256 are sampled, at most half of them positive; of its proposals, of which up to 2,000 per
    level and 2,000 together are kept, 512, at most a quarter positive."""
    made = twins(bench, min_size=SIDE, max_size=SIDE)
    _level(made, OBJECTNESS, lambda bias: torch.full_like(bias, 1.5))
    for annotated, what in ((CROWD, "169 boxes"), (ONE, "one box")):
        where = f"in train mode, all anchors scored alike, with {what} in an image: not as many anchors are sampled"
        _compare(bench, made, annotated, SIDE, "loss_objectness", where)
    made.transplant()
    _level(made, CLASSIFIER, lambda bias: torch.arange(len(bias), dtype=bias.dtype) - 1.5)
    where = "in train mode, all proposals scored alike, with 169 boxes in an image: not as many proposals are sampled"
    _compare(bench, made, CROWD, SIDE, "loss_classifier", where)
    made = twins(bench, min_size=LARGE, max_size=LARGE)
    _level(made, CLASSIFIER, lambda bias: torch.arange(len(bias), dtype=bias.dtype) - 1.5)
    where = (
        f"in train mode, all proposals scored alike, on images of {LARGE}x{LARGE}: other proposals are kept, or not as "
        "many are sampled"
    )
    _compare(bench, made, SPREAD, LARGE, "loss_classifier", where)


def check_random_sampling(bench: Bench) -> None:
    """Other draws with another seed, the same ones with the same seed, in both stages."""
    made = twins(bench, min_size=2 * SIDE, max_size=2 * SIDE)
    given, targets = images(bench, (2 * SIDE, 2 * SIDE)), [target(*ONE)]
    found = [losses(bench, made.subject.net, given, targets, seed=seed) for seed in (*SEEDS, SEEDS[0])]
    expected = [losses(bench, made.reference.net, given, targets, seed=seed) for seed in SEEDS]
    for name, what in (("loss_objectness", "anchors"), ("loss_classifier", "proposals")):
        assert _distinct(expected, name) == len(SEEDS), "the reference draws nothing here: nothing would be checked"
        count = _distinct(found[:-1], name)
        assert count == len(SEEDS), (
            f"{bench.who}: {name} takes {count} values under {len(SEEDS)} seeds, where there are more {what} than are "
            "sampled; expected other draws each time (the same candidates are taken, or a seed is set inside)"
        )
        first, again = float(found[0][name].detach()), float(found[-1][name].detach())
        assert abs(again - first) <= 1e-9 * abs(first), (
            f"{bench.who}: {name} is {first:.9g} and {again:.9g} under the same seed; expected the same draws"
        )


def _distinct(found: list[dict[str, Tensor]], name: str) -> int:
    """How many values there are that differ by more than rounding."""
    values = sorted(float(f[name].detach()) for f in found if name in f)
    return sum(n == 0 or value - values[n - 1] > 1e-9 * abs(value) for n, value in enumerate(values))
