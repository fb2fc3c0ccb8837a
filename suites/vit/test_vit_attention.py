"""Attention and position embeddings of our ViT-B/16 on a photograph: checked, and recorded for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.records.schema import MeasurementRecord

if TYPE_CHECKING:
    from harness.plugin.run import Run
    from suites.vit.model import VisionTransformer


def weighted(session: Run) -> tuple[VisionTransformer, str]:
    """ViT-B/16 with torchvision's ImageNet weights where they were asked for and are there, else as it starts."""
    import torch

    from suites.vit.model import vit_b_16

    if session.request.pretrained:
        from reference.alignment.match.align import align
        from reference.libraries import torchvision_vit
        from reference.weights import pretrained
        from reference.weights.checkpoint_files import load_weights

        try:
            weights = pretrained.torchvision_imagenet("vit_b_16")
        except pretrained.WeightsUnavailableError:
            pass
        else:
            ours, theirs = vit_b_16().eval(), torchvision_vit.build("vit_b_16").eval()
            load_weights(theirs, weights.state)
            values = align(ours, theirs, torch.zeros(1, 3, 224, 224)).to_subject(theirs.state_dict())
            load_weights(ours, {**ours.state_dict(), **values})
            return ours, "ImageNet weights"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(session.request.seed)
        return vit_b_16().eval(), "fresh weights"


def test_attention_of_a_photograph(session: Run) -> None:
    """The class token gives away all of its attention and no more; positions differ from one another."""
    import torch

    from harness.bench.sample_images import photographs
    from suites.vit.attention_maps import class_attention, position_similarity
    from suites.vit.model import EncoderLayer

    images = photographs(224)
    if images is None:
        pytest.skip("needs scikit-learn and Pillow (the test extra)")
    model, origin = weighted(session)
    maps = class_attention(model, images[:1].float())
    assert maps.shape == (12, 1, 14, 14)
    assert bool((maps > 0).all())
    first = model.layers[0]
    assert isinstance(first, EncoderLayer)
    rows = first.attention.weights(first.norm1(model.embed(images[:1].float()))).sum(dim=-1)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-5)
    given = maps.sum(dim=(-2, -1))
    assert bool((given < 1).all()), f"the class token gives the patches {given.max():.3f} of its attention"
    similarity = position_similarity(model)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(196, dtype=torch.float64))
    others = similarity - torch.eye(196, dtype=torch.float64)
    assert float(others.abs().max()) < 0.999, "two patches have the same position embedding"
    middle = similarity[7 * 14 + 7].view(14, 14)
    grids = {
        "attention": [("first layer", maps[0, 0]), ("last layer", maps[-1, 0])],
        "position_similarity": [("with the patch of row 8, column 8", middle)],
    }
    for quantity, drawn in grids.items():
        for title, grid in drawn:
            session.record(
                MeasurementRecord(
                    run=session.id,
                    suite="vit",
                    architecture="vit_b_16",
                    subject="ours",
                    comparison=f"{title}, {origin}",
                    quantity=quantity,  # type: ignore[arg-type]
                    samples=tuple(max(0.0, v) for v in grid.flatten().tolist()),
                    details={"rows": 14, "columns": 14, "image": "china.jpg", "weights": origin},
                )
            )
