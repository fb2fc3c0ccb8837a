"""Conformance of ResNets: the shared checks on every subject, and what depth without shortcuts does to gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.plugin.fixtures import judge
from harness.plugin.known_deviations import conforming, deviating
from harness.records.schema import MeasurementRecord
from harness.subjects.loading import own_subjects
from suites.resnet.architectures import FAMILY

if TYPE_CHECKING:
    from harness.bench.bench import Bench
    from harness.plugin.run import Run


def test_conformance(subject: Bench, check: str) -> None:
    judge(subject, check)


NOT_RESNET50 = {
    "parameters": "blocks of two 3x3 convolutions in place of bottlenecks: 21,797,672 parameters, those of ResNet-34",
    "multiply_adds": "3.66 billion multiply-adds, those of ResNet-34, where ResNet-50 takes 4.09",
    "shapes": "stages of 64 to 512 channels, where those of ResNet-50 have 256 to 2048",
    "parity_eval": "its weights do not correspond to those of a ResNet-50",
}


@pytest.mark.parametrize(
    ("published", "name"),
    [*conforming(FAMILY, "resnet34"), *deviating(FAMILY, "resnet50", NOT_RESNET50)],
    indirect=["published"],
)
def test_published(published: Bench, name: str) -> None:
    judge(published, name)


def test_gradcheck_of_a_block() -> None:
    """Both blocks, with and without a projection, pass torch's own gradient check in float64."""
    import torch

    from suites.resnet.model import BasicBlock, Bottleneck

    torch.manual_seed(0)
    for block in (BasicBlock(2, 2, 1), BasicBlock(2, 3, 2), Bottleneck(8, 2, 1), Bottleneck(3, 2, 2)):
        block.double().eval()
        x = torch.randn(1, block.conv1.in_channels, 5, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(block, (x,), eps=1e-7, atol=1e-4)


def test_shortcuts_keep_the_gradient(session: Run) -> None:
    """On the way from the last to the first stage the gradient keeps its order of size only with shortcuts.

    In ResNet-152, 141 layers lie between; the shallower ones are recorded beside it. Each layer of ReLU and batch
    normalisation multiplies the gradient's norm by about sqrt(pi / (pi - 1)) = 1.21 (Yang et al. 2019,
    arXiv:1902.08129, section 3), so a plain chain by about 10^11; even 1.15 a layer would be 10^8. Along shortcuts it
    grows with the depth only polynomially: less than 141 squared.
    """
    import torch

    from suites.resnet import model
    from suites.resnet.depth import stage_gradient_norms, without_shortcuts

    ratios = {}
    for name in ("resnet18", "resnet50", "resnet152"):
        for label in ("with shortcuts", "without shortcuts"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(session.request.seed)
                built = getattr(model, name)(num_classes=10)
                images = torch.randn(4, 3, 64, 64)
            if label.startswith("without"):
                without_shortcuts(built)
            norms = stage_gradient_norms(built, images)
            ratios[name, label] = norms[0] / norms[-1]
            session.record(
                MeasurementRecord(
                    run=session.id,
                    suite="resnet",
                    architecture=name,
                    subject=label,
                    comparison="gradient norm per stage",
                    quantity="gradient_norm",
                    samples=tuple(norms),
                    mode="train",
                    batch_size=4,
                    input_size=64,
                )
            )
    kept, lost = ratios["resnet152", "with shortcuts"], ratios["resnet152", "without shortcuts"]
    assert kept < 141**2, f"with shortcuts the gradient grows {kept:.1e}-fold"
    assert lost > 1.15**141, f"without shortcuts the gradient grows only {lost:.1e}-fold"


def test_shapes_of_the_whole_resnet152(session: Run) -> None:
    """Over 200 drawn inputs on the full-size network, on the meta device."""
    bench = session.bench(own_subjects(FAMILY, ["resnet152"])[0])
    bench.breadth = 2.0
    judge(bench, "shapes")


def test_bad_arguments_are_named() -> None:
    from suites.resnet.model import resnet18

    with pytest.raises(ValueError, match="num_classes=0"):
        resnet18(num_classes=0)
    with pytest.raises(ValueError, match="in_channels=-1"):
        resnet18(in_channels=-1)


def test_zero_init_makes_each_block_the_identity_at_first() -> None:
    import torch

    from suites.resnet.model import BasicBlock, Bottleneck, resnet18, resnet50

    for build, block, norm in ((resnet18, BasicBlock, "norm2"), (resnet50, Bottleneck, "norm3")):
        with torch.device("cpu"):
            model = build(num_classes=2, zero_init_residual=True)
        blocks = [m for m in model.modules() if isinstance(m, block)]
        assert blocks
        assert not any(getattr(m, norm).weight.any() for m in blocks)
