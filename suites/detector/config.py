"""The detector that a training was asked for: the suite's own, or torchvision's assembled from the same parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from reference.libraries.torchvision_detector import assembled, state_as_assembled
from reference.weights.checkpoint_files import read_weights
from reference.weights.pretrained import torchvision_imagenet
from suites.detector.data.annotations import Annotations, DataError
from suites.detector.model.faster_rcnn import Detector, detector_resnet18, detector_resnet50, load_backbone
from suites.detector.model.matcher import Sampler

FACTORIES = {"detector_resnet18": detector_resnet18, "detector_resnet50": detector_resnet50}
IMPLEMENTATIONS = ("ours", "torchvision")
IMAGENET = "imagenet"
CELL = 8
"""Pixels of the smallest anchor cell, on P3."""
POSITIVE = 0.25
"""Share of the sampled proposals that may be positive."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """All that decides which network it is; a checkpoint keeps it."""

    arch: str
    implementation: str = "ours"
    num_classes: int
    side: int = 800
    width: int = 256
    hidden: int = 1024
    anchors: tuple[float, ...] = (32, 64, 128, 256, 512)
    roi_samples: int = 512
    norm: str = "batch"
    trainable: int = 5

    @property
    def longest(self) -> int:
        """Pixels that the longer side is resized to at most: in proportion to 1333 for 800."""
        return round(self.side * 1333 / 800)

    def facts(self) -> dict[str, Any]:
        """For a checkpoint's JSON."""
        return {**asdict(self), "anchors": list(self.anchors)}


def build(network: DetectorConfig, seed: int) -> nn.Module:
    """The network with weights drawn from ``seed``. Raises DataError for settings that make none."""
    if network.arch not in FACTORIES or network.implementation not in IMPLEMENTATIONS:
        raise DataError(
            f"{network.arch} of {network.implementation}: known: {', '.join(FACTORIES)}, ours or torchvision"
        )
    sizes = len(network.anchors) == 5 and all(0 < size < math.inf for size in network.anchors)
    if not sizes or network.side < CELL or network.roi_samples < 1:
        raise DataError("expected five positive sizes of anchors, a side of at least 8, and a proposal to sample")
    if network.width < 1 or network.hidden < 1:
        raise DataError(f"width={network.width}, hidden={network.hidden}: expected at least one channel in each")
    settings: dict[str, Any] = {
        "width": network.width,
        "hidden": network.hidden,
        "min_size": network.side,
        "max_size": network.longest,
        "size_divisible": 32,
        "anchor_sizes": [(size,) for size in network.anchors],
    }
    torch.manual_seed(seed)
    model = FACTORIES[network.arch](network.num_classes, norm=network.norm, trainable=network.trainable, **settings)
    if network.implementation == "ours":
        model.rpn.sampler = ImageSampler(model.rpn.sampler)
        model.roi_heads.sampler = ImageSampler(Sampler(count=network.roi_samples, fraction=POSITIVE))
        return model
    if (network.norm, network.trainable) != ("batch", 5):
        raise DataError(
            "torchvision's is assembled with BatchNorm and nothing frozen; leave out --norm and --trainable"
        )
    reference: Any = assembled(network.arch, network.num_classes, **settings)
    reference.load_state_dict(state_as_assembled(model.state_dict()))  # from the same start: what differs is learnt
    reference.rpn.fg_bg_sampler = LibraryImageSampler(reference.rpn.fg_bg_sampler)
    reference.roi_heads.fg_bg_sampler = LibraryImageSampler(
        BalancedPositiveNegativeSampler(network.roi_samples, POSITIVE)
    )
    return reference  # type: ignore[no-any-return]


def take_weights(model: nn.Module, network: DetectorConfig, source: str) -> None:
    """Give the backbone ``imagenet``'s weights, or a file's. Raises ValueError where they are another network's."""
    trunk = network.arch.removeprefix("detector_")
    state = torchvision_imagenet(trunk).state if source == IMAGENET else read_weights(source)
    if not isinstance(model, Detector):
        raise DataError("--weights: for ours only")
    load_backbone(model, state)


def check_sizes(network: DetectorConfig, annotations: Annotations) -> None:
    """Raise DataError naming an image that, once resized, is smaller than one anchor cell."""
    short, long = annotations.sizes.min(axis=1), annotations.sizes.max(axis=1)
    scaled = short * np.minimum(network.side / short, network.longest / long)
    odd = np.flatnonzero(scaled < CELL)
    if odd.size:
        height, width = annotations.sizes[odd[0]]
        raise DataError(
            f"{annotations.files[odd[0]]}: {width}x{height} pixels are resized to a side of {scaled[odd[0]]:.1f}, less "
            f"than one anchor cell of {CELL}" + (f" ({odd.size} such images)" if odd.size > 1 else "")
        )


class ImageSampler(Sampler):
    """Draws for each image by that image's own seed, so that it doesn't matter which images share its process."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(count=sampler.count, fraction=sampler.fraction)
        self.seeds: Iterator[int] = iter(())

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Sampler`; with the seeds of a step used up, or none given, by torch's present generator."""
        _start(self.seeds)
        return super().__call__(labels)


class LibraryImageSampler:
    """The same around torchvision's sampler, which is given all images of a step at once."""

    def __init__(self, sampler: BalancedPositiveNegativeSampler) -> None:
        self.sampler = sampler
        self.seeds: Iterator[int] = iter(())

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the positives and of the background, per image."""
        masks = []
        for of_image in labels:
            _start(self.seeds)
            masks.append(self.sampler([of_image]))
        return [positive for (positive,), _ in masks], [background for _, (background,) in masks]


def _start(seeds: Iterator[int]) -> None:
    seed = next(seeds, None)
    if seed is not None:
        torch.manual_seed(seed)


def seed_images(model: nn.Module, seeds: Sequence[int]) -> None:
    """Decide the next step's draws: one seed for each of its images, in their order."""
    torch.manual_seed(seeds[0])
    for part in (getattr(model, head) for head in ("rpn", "roi_heads")):
        sampler = getattr(part, "sampler", None) or getattr(part, "fg_bg_sampler", None)
        if isinstance(sampler, ImageSampler | LibraryImageSampler):
            sampler.seeds = iter(seeds)
