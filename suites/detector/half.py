"""Half precision: what autocast must leave in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.bench.bench import Bench
from suites.detector.alignment import twins
from suites.detector.bench import detect, images, ready

HEIGHT, WIDTH = 96, 160
OFFSETS = "net.roi_heads.box_predictor.bbox_pred"


def check_half_precision_boxes(bench: Bench) -> None:
    """Under autocast to bfloat16 boxes are decoded in float32, in both stages: a coordinate above 256 has steps of 2 px
    in bfloat16. For the first stage, the second's offsets are zero, so that detections are proposals."""
    _expect_float32(bench, ready(bench, min_size=HEIGHT, max_size=2 * HEIGHT), "the boxes'")
    made = twins(bench, min_size=HEIGHT, max_size=2 * HEIGHT)
    with torch.no_grad():
        for part in ("weight", "bias"):
            made.reference.get_parameter(f"{OFFSETS}.{part}").zero_()
        made.share()
    _expect_float32(bench, made.subject.net, "the proposals'")


def _expect_float32(bench: Bench, model: nn.Module, whose: str) -> None:
    given = [image.float() for image in images(bench, (HEIGHT, WIDTH))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = detect(bench, model.float(), given)
    boxes = found["boxes"]
    assert boxes.dtype == torch.float32, f"{bench.who}: under autocast boxes are {boxes.dtype}; expected float32"
    inside = _inside(boxes)
    rounded = (inside == inside.bfloat16().float()).float().mean()
    assert not len(inside) or rounded < 0.5, (
        f"{bench.who}: under autocast {float(rounded):.0%} of {whose} coordinates are those of bfloat16; expected "
        "decoding in float32"
    )


def _inside(boxes: Tensor) -> Tensor:
    """The coordinates that clipping did not put on the image's edge."""
    edges = boxes.new_tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return boxes[(boxes > 0) & (boxes < edges)]
