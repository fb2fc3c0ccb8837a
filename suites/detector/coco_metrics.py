"""COCO's twelve figures, computed by torchmetrics with faster-coco-eval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchmetrics.detection import MeanAveragePrecision

from suites.detector.data.dataset import DetectionImages, Target, collate

FIGURES = {
    "map": "AP at IoU 0.50:0.95",
    "map_50": "AP at IoU 0.50",
    "map_75": "AP at IoU 0.75",
    "map_small": "AP, small (area < 32^2)",
    "map_medium": "AP, medium",
    "map_large": "AP, large (area > 96^2)",
    "mar_1": "AR with 1 detection",
    "mar_10": "AR with 10 detections",
    "mar_100": "AR with 100 detections",
    "mar_small": "AR, small",
    "mar_medium": "AR, medium",
    "mar_large": "AR, large",
}
"""torchmetrics' names, in the order in which COCO prints them, and what they say."""

Pair = tuple[Target, Target]


@torch.no_grad()
def detections(
    model: nn.Module,
    images: DetectionImages,
    indices: Sequence[int],
    *,
    device: torch.device,
    batch_size: int = 4,
    workers: int = 0,
    on_image: Callable[[int], None] = lambda count: None,
) -> list[Pair]:
    """For each of ``indices`` what the model finds, in eval mode, and what is annotated; on the CPU."""
    training = model.training
    model.eval()
    loader = DataLoader(
        Subset(images, indices), batch_size, num_workers=workers, collate_fn=collate, generator=torch.Generator()
    )
    pairs: list[Pair] = []
    try:
        for batch, targets in loader:
            found = model([image.to(device) for image in batch])
            pairs.extend(
                ({n: t.detach().float().cpu() if t.is_floating_point() else t.cpu() for n, t in f.items()}, t)
                for f, t in zip(found, targets, strict=True)
            )
            on_image(len(targets))
    finally:
        model.train(training)
    return pairs


def average_precision(pairs: Iterable[Pair]) -> dict[str, float]:
    """The twelve figures by torchmetrics' names, from 0 to 1; -1 where nothing of the size is annotated."""
    # The pairs are of all processes already: torchmetrics would wait for the others, which don't come here.
    metric = MeanAveragePrecision(backend="faster_coco_eval", sync_on_compute=False)
    wanted = ("boxes", "labels", "iscrowd", "area")
    for found, target in pairs:
        metric.update([found], [{name: target[name] for name in wanted}])
    result: dict[str, Tensor] = metric.compute()
    return {name: float(result[name]) for name in FIGURES}
