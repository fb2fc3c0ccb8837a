"""Agreement with torchvision's `FasterRCNN` over the same pyramid, weights transplanted, in float64.

Images are so small (64x32) that the losses look at every anchor and every proposal: nothing is drawn, and two correct
detectors agree whatever their random numbers are. Levels P6 and P7 have one cell there, so that the strides that
torchvision derives from the image's size are those of the level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.subjects import SubjectError
from harness.workbench import Workbench
from reference.torchvision_detector import assembled
from suites.detector.alignment import aligned, transplant
from suites.detector.bench import CLASSES, build, detect, images, losses, target

SIZE = (32, 64)
TIGHT = 1e-9
"""Relative, float64: hundreds of thousands of roundings of 1e-16 that don't add up in one direction."""
FLOAT32 = 2e-6
"""Of what torchvision computes in float32 whatever it is given: the objectness loss, and ratios of sizes."""
TARGETS = (
    ([[2.0, 3.0, 40.0, 28.0], [30.0, 4.0, 62.0, 20.0], [6.0, 2.0, 20.0, 31.0]], [1, 3, 4]),
    ([[5.0, 1.0, 60.0, 30.0]], [2]),
    ([], []),
)
Pairs = list[tuple[str, str]]


def _both(
    bench: Workbench, min_size: int = SIZE[0], max_size: int = SIZE[1], divisible: int = 32
) -> tuple[nn.Module, nn.Module, Pairs]:
    try:
        subject, widths = build(bench, min_size=min_size, max_size=max_size, divisible=divisible)
    except SubjectError:
        if divisible != 32:
            raise
        subject, widths = build(bench, min_size=min_size, max_size=max_size)
    trunk = str(bench.architecture.facts["trunk"])
    reference = assembled(
        trunk, CLASSES, min_size=min_size, max_size=max_size, size_divisible=divisible, **widths
    ).double()
    twin = assembled(trunk, CLASSES, min_size=64, max_size=128, size_divisible=32, **widths).double()
    wide, _ = build(bench, min_size=64, max_size=128)
    pairs = bench.shared("detector_pairs", lambda: aligned(bench.who, wide, twin))
    transplant(subject, reference, pairs, seed=bench.seed)
    return subject, reference, pairs


def _first_difference(subject: nn.Module, reference: nn.Module, pairs: Pairs, given: list[Tensor]) -> str:
    """The first layer whose output differs in one forward pass, in words; empty where none does."""
    values: list[dict[str, list[Tensor]]] = []
    for model, names in ((subject, [a for a, _ in pairs]), (reference, [b for _, b in pairs])):
        kept: dict[str, list[Tensor]] = {}
        handles = [
            model.get_submodule(n).register_forward_hook(
                lambda m, i, o, n=n, k=kept: k.setdefault(n, []).append(o.clone())
            )
            for n in names
        ]
        try:
            with torch.no_grad():
                model.eval()(given)
        finally:
            for handle in handles:
                handle.remove()
        values.append(kept)
    for mine, other in pairs:
        a, b = (
            torch.cat([v.flatten() for v in sorted(k.get(n, []), key=lambda t: -t.numel())] or [torch.zeros(0)])
            for k, n in ((values[0], mine), (values[1], other))
        )
        off = _relative(a, b)
        if off > TIGHT:
            return f"first layer whose output differs: {mine} (reference: {other}), relative error {off:.2g}"
    return "all layers agree: what is made of the heads' outputs differs (decoding, clipping, suppression, thresholds)"


def _relative(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        return 1.0
    return float((got - expected).norm() / expected.norm().clamp_min(1e-12))


def _compare(bench: Workbench, models: tuple[nn.Module, nn.Module, Pairs], given: list[Tensor], where: str) -> None:
    subject, reference, pairs = models
    for number, (got, expected) in enumerate(
        zip(detect(bench, subject, given), detect(bench, reference, given), strict=True)
    ):
        assert len(expected["boxes"]) > 3, "the reference found next to nothing: nothing would be compared"
        for key in ("scores", "boxes", "labels"):
            off = _relative(got[key].double(), expected[key].double())
            if off > FLOAT32:
                why = _first_difference(subject, reference, pairs, given)
                raise AssertionError(
                    f"{bench.who}: {where}, image {number}: {key} of {len(got[key])} detections differ from the "
                    f"reference's {len(expected[key])} by {off:.2g} (bound {FLOAT32:.0e}); {why}"
                )


def check_parity_detections(bench: Workbench) -> None:
    """Boxes, labels and scores; the first differing layer is named."""
    _compare(bench, _both(bench), images(bench, SIZE, SIZE), f"images of {SIZE[1]}x{SIZE[0]}")


def check_parity_anchors(bench: Workbench) -> None:
    """Detections on images padded to 128x256, where every level has its own stride, one of them resized."""
    models = _both(bench, 100, 200, 128)
    _compare(bench, models, images(bench, (100, 180), (75, 150)), "images of 180x100 and 150x75, padded to 256x128")


def _losses(bench: Workbench, model: nn.Module, step: int = 0) -> dict[str, Tensor]:
    given = [(image + 0.1 * step) / (1 + 0.1 * step) for image in images(bench, SIZE, SIZE, SIZE)]
    return losses(bench, model, given, [target(*t) for t in TARGETS])


def check_parity_losses(bench: Workbench) -> None:
    """Each of the four, in train mode, with an image that has no box."""
    subject, reference, _ = _both(bench)
    got, expected = _losses(bench, subject), _losses(bench, reference)
    missing = sorted(set(expected) ^ set(got))
    assert not missing, f"{bench.who}: losses {sorted(got)}; expected {sorted(expected)}"
    wrong = [
        f"{k} is {float(got[k].detach()):.6g}, expected {float(v.detach()):.6g}"
        for k, v in expected.items()
        if _relative(got[k].detach().double(), v.detach().double()) > FLOAT32
    ]
    right = [k for k in expected if not any(w.startswith(f"{k} ") for w in wrong)]
    assert not wrong, f"{bench.who}: {'; '.join(wrong)} (equal: {', '.join(right) or 'none'})"


def check_parity_detector_gradients(bench: Workbench) -> None:
    """Of each loss by itself, for every parameter: what a proposal's position must not carry shows here."""
    subject, reference, pairs = _both(bench)
    got, expected = _losses(bench, subject), _losses(bench, reference)
    named = [
        (f"{mine}.{kind}", dict(subject.get_submodule(mine).named_parameters())[kind], parameter)
        for mine, other in pairs
        for kind, parameter in reference.get_submodule(other).named_parameters()
    ]
    for name in expected:
        ours = torch.autograd.grad(got[name], [a for _, a, _ in named], retain_graph=True, allow_unused=True)
        theirs = torch.autograd.grad(expected[name], [b for _, _, b in named], retain_graph=True, allow_unused=True)
        norms = [torch.zeros(()) if b is None else b.norm() for b in theirs]
        floor = 1e-6 * float(torch.stack([n.double() for n in norms]).max())  # what cancels is rounding only
        for (parameter, _, like), a, b, norm in zip(named, ours, theirs, norms, strict=True):
            a, b = (torch.zeros_like(like) if g is None else g for g in (a, b))
            off = float((a - b).norm() / norm.clamp_min(floor))
            assert off <= 1e-6, (
                f"{bench.who}: gradient of {name} for {parameter} differs from the reference's by {off:.2g} "
                f"(norm {float(a.norm()):.3g}, expected {float(norm):.3g})"
            )


def check_parity_detector_steps(bench: Workbench) -> None:
    """Parameters and BatchNorm's statistics after five SGD steps with momentum and weight decay."""
    subject, reference, pairs = _both(bench)
    for model in (subject, reference):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        for step in range(5):
            optimizer.zero_grad()
            bench.backward(torch.stack([v.double() for v in _losses(bench, model, step).values()]).sum())
            optimizer.step()
    for mine, other in pairs:
        own = subject.get_submodule(mine).state_dict()
        for kind, tensor in reference.get_submodule(other).state_dict().items():
            off = _relative(own[kind].double(), tensor.double())
            assert off <= 1e-5, f"{bench.who}: after five steps {mine}.{kind} differs from the reference's by {off:.2g}"
