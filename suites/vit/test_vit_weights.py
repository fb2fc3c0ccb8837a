"""Real ImageNet weights in our Vision Transformers: parity with the references, and what two photographs show."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from harness.plugin.run import Run

PALACE, DAISY = 698, 985
"""ImageNet's indices of what scikit-learn's china.jpg and flower.jpg show."""
BOUND = 1e-9
"""Relative, in float64: 12 layers round at 1e-16 for each sum, of at most 3,072 terms."""


def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Both photographs at 224 px in float64; skips where scikit-learn or Pillow is missing."""
    import torch

    from harness.bench.sample_images import MEAN, STD, photographs

    images = photographs(224)
    if images is None:
        pytest.skip("needs scikit-learn and Pillow (the test extra)")
    column = [torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD, mean, std)]
    return (images * column[1] + column[0] - column[2]) / column[3]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_pretrained(session: Run, library: str) -> None:
    """With ``--weights imagenet``: the library's weights give our ViT-B/16 the same logits, and the right top five."""
    if not session.request.pretrained:
        pytest.skip("run with --weights imagenet")
    import torch

    from reference.alignment.match.align import align
    from reference.libraries import timm_vit, torchvision_vit
    from reference.weights import pretrained
    from reference.weights.checkpoint_files import load_weights
    from suites.vit.model import vit_b_16

    ours = vit_b_16().double().eval()
    build, fetch = {
        "torchvision": (torchvision_vit.build, partial(pretrained.torchvision_imagenet, "vit_b_16")),
        "timm": (timm_vit.build, partial(pretrained.timm_imagenet, "vit_base_patch16_224")),
    }[library]
    try:
        weights = fetch()
    except pretrained.WeightsUnavailableError as error:
        pytest.skip(str(error))
    images = normalised(weights.mean, weights.std)
    theirs = build("vit_b_16").double().eval()
    load_weights(theirs, weights.state)
    load_weights(ours, {**ours.state_dict(), **align(ours, theirs, images[:1]).to_subject(theirs.state_dict())})
    with torch.no_grad():
        got, expected = ours(images), theirs(images)
    off = (got - expected).norm() / expected.norm()
    assert off < BOUND, f"ours and {library}'s differ by {off:.1e}, expected at most {BOUND:.0e}"
    for row, shown in zip(got.topk(5).indices.tolist(), (PALACE, DAISY), strict=True):
        assert shown in row
