"""Each part against torchvision's, with random weights, and at its edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor


def test_pyramid_is_torchvisions_at_even_and_odd_sizes() -> None:
    import torch
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

    from suites.detector.model.fpn import FeaturePyramid

    torch.manual_seed(0)
    ours, theirs = (
        FeaturePyramid([4, 6, 8], 5).double(),
        FeaturePyramidNetwork([4, 6, 8], 5, LastLevelP6P7(5, 5)).double(),
    )
    own = list(theirs.state_dict())
    names = ["laterals", "smoothings", "p6", "p7"]
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    there = {n: ours.state_dict()[_own_name(n)] for n in own}
    assert {n.split(".")[0] for n in ours.state_dict()} == set(names)
    theirs.load_state_dict(there)
    for height, width in ((256, 256), (200, 264), (333, 500)):
        sides = [(-(-height // s), -(-width // s)) for s in (8, 16, 32)]
        maps = [torch.randn(2, w, *side, dtype=torch.float64) for w, side in zip((4, 6, 8), sides, strict=True)]
        expected = list(theirs({str(i): m for i, m in enumerate(maps)}).values())
        for got, there_too in zip(ours(maps), expected, strict=True):
            torch.testing.assert_close(got, there_too, rtol=1e-12, atol=1e-12)


def _own_name(name: str) -> str:
    for theirs, ours in (("inner_blocks", "laterals"), ("layer_blocks", "smoothings"), ("extra_blocks.", "")):
        name = name.replace(theirs, ours)
    parts = name.split(".")
    return ".".join([parts[0], parts[1], parts[3]] if len(parts) == 4 else parts)


def test_anchors_are_torchvisions_where_it_derives_the_same_strides() -> None:
    import torch
    from torchvision.models.detection.anchor_utils import AnchorGenerator as Theirs
    from torchvision.models.detection.image_list import ImageList

    from suites.detector.model.anchors import STRIDES, AnchorGenerator

    theirs = Theirs(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    levels = [torch.zeros(1, 1, 128 // s, 256 // s) for s in STRIDES]
    expected = theirs(ImageList(torch.zeros(1, 3, 128, 256), [(128, 256)]), levels)[0]
    assert torch.equal(torch.cat(AnchorGenerator()(levels)), expected)


@pytest.mark.parametrize("force", [False, True])
def test_matcher_is_torchvisions_with_ties_and_at_the_thresholds(force: bool) -> None:
    import torch
    from torchvision.models.detection._utils import Matcher as Theirs

    from suites.detector.model.matcher import Matcher

    theirs = Theirs(0.7, 0.3, allow_low_quality_matches=force)
    ours = Matcher(foreground=0.7, background=0.3, force=force)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        overlaps = torch.randint(0, 11, (3, 12), generator=generator).double() / 10
        assert torch.equal(ours(overlaps), theirs(overlaps))


def test_box_coder_is_torchvisions_and_inverts_itself() -> None:
    import torch
    from torchvision.models.detection._utils import BoxCoder as Theirs

    from suites.detector.model.box_coder import BoxCoder

    generator = torch.Generator().manual_seed(0)
    corner, size = (torch.rand(2, 20, 2, generator=generator, dtype=torch.float64) * 100 for _ in range(2))
    boxes, anchors = torch.cat([corner, corner + size + 1], dim=-1)
    ours, theirs = BoxCoder((10.0, 10.0, 5.0, 5.0)), Theirs((10.0, 10.0, 5.0, 5.0))
    offsets = ours.encode(boxes, anchors)
    torch.testing.assert_close(offsets, theirs.encode_single(boxes, anchors), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.decode(offsets, anchors), boxes, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.decode(offsets * 9, anchors), theirs.decode_single(offsets * 9, anchors))


@pytest.mark.parametrize(
    "keywords", [{"num_classes": 1}, {"num_classes": 5, "norm": "none"}, {"num_classes": 5, "trainable": 6}]
)
def test_settings_that_make_no_sense_are_named(keywords: dict[str, Any]) -> None:
    from suites.detector.model.faster_rcnn import detector_resnet18

    name = list(keywords)[-1]
    with pytest.raises(ValueError, match=name):
        detector_resnet18(**keywords)


def test_weights_of_another_backbone_are_refused() -> None:
    from torchvision.models import resnet34

    from suites.detector.model.faster_rcnn import detector_resnet50, load_backbone

    with pytest.raises(ValueError, match="another backbone"):
        load_backbone(detector_resnet50(5, width=8, hidden=8), resnet34().state_dict())


def test_flipped_features_give_flipped_proposals() -> None:
    """One level, head weights that are their own mirror image, and an image as wide as the span of the anchors."""
    import torch

    from suites.detector.model.anchors import AnchorGenerator
    from suites.detector.model.rpn import RegionProposals

    torch.manual_seed(0)
    stage = RegionProposals(4, AnchorGenerator(((16,),), strides=(8,))).double().eval()
    with torch.no_grad():
        stage.head.conv.weight.add_(stage.head.conv.weight.flip(-1))
        assert stage.head.conv.bias is not None
        stage.head.conv.bias.fill_(1)  # no cell where all channels are cut, and scores are equal
        stage.head.offsets.weight[0::4] = 0  # to the right on one side is to the left on the other
    level = torch.randn(1, 4, 5, 7, dtype=torch.float64)
    size = (40, 8 * 6)
    (plain,), _ = stage([level], [size])
    (flipped,), _ = stage([level.flip(-1)], [size])
    mirrored = torch.stack([48 - flipped[:, 2], flipped[:, 1], 48 - flipped[:, 0], flipped[:, 3]], dim=1)
    torch.testing.assert_close(mirrored, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fault", ["", "half a pixel", "to the right"])
def test_flipped_features_and_proposals_give_flipped_detections(fault: str) -> None:
    """The second stage, with weights that are their own mirror image, on a level of 17 columns.

    Column 0 lies at pixel 0 and column 16 at pixel 128, so that x becomes 128 - x. The whole detector can't be made
    symmetric: nearest upsampling from 9 columns to 17 copies the first into two columns and the last into one.
    """
    import torch

    from suites.detector.model.roi_heads import BoxHeads

    torch.manual_seed(0)
    heads = BoxHeads(4, 5, hidden=16).double().eval()
    with torch.no_grad():
        kernel = heads.fc1.weight.view(16, 4, 7, 7)
        kernel.copy_(kernel + kernel.flip(-1))
        for parameter in (heads.offsets.weight, heads.offsets.bias):
            parameter[0::4] = 0  # to the right on one side is to the left on the other
        if fault == "to the right":
            heads.offsets.bias[0::4] = 0.5
    levels = [torch.randn(1, 4, 9, 17, dtype=torch.float64)] + [torch.zeros(1, 4, 3, 5, dtype=torch.float64)] * 2
    corners = torch.rand(40, 2, dtype=torch.float64) * torch.tensor([90.0, 40.0])
    boxes = torch.cat([corners, corners + 8 + 24 * torch.rand(40, 2, dtype=torch.float64)], dim=1)  # at least one cell
    shift = 0.5 if fault == "half a pixel" else 0.0
    (plain,), _ = heads(levels, [boxes + shift], [(64, 128)])
    (flipped,), _ = heads([level.flip(-1) for level in levels], [_mirrored(boxes) + shift], [(64, 128)])
    assert len(plain["boxes"]) > 40
    same = plain["boxes"].shape == flipped["boxes"].shape and bool(
        torch.isclose(_mirrored(flipped["boxes"]), plain["boxes"], rtol=1e-9, atol=1e-9).all()
        and torch.isclose(flipped["scores"], plain["scores"], rtol=1e-9, atol=1e-9).all()
        and (flipped["labels"] == plain["labels"]).all()
    )
    assert same == (not fault)


def _mirrored(boxes: Tensor) -> Tensor:
    import torch

    return torch.stack([128 - boxes[:, 2], boxes[:, 1], 128 - boxes[:, 0], boxes[:, 3]], dim=1)
