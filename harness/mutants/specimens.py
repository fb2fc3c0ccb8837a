"""Small correct models that the faulty variants are made from, with facts and references of their own size.

A full-size network takes a minute through all checks, these take seconds: the same code (`suites/*/model.py`), with
fewer and narrower layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from harness.subjects.facts import Architecture, Family, Stage
from reference.libraries.reference import Reference
from suites.efficientnet import architectures as efficientnet
from suites.efficientnet.model import EfficientNet
from suites.resnet import architectures as resnet
from suites.resnet.model import BasicBlock, Bottleneck, ResNet
from suites.vit import architectures as vit
from suites.vit.model import VisionTransformer, vit_tiny_8

SOURCE = "a small instance of the published definition, for mutants; counts: torchvision's classes"
DEPTHS = (2, 1, 1, 1)
WIDTH, DEPTH = 0.25, 0.5


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """A small architecture, its family (with references of that size) and our own correct model of it."""

    family: Family
    architecture: Architecture
    factory: Callable[..., nn.Module]


def resnet12(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """Two basic blocks in the first stage, one in each other."""
    return ResNet(BasicBlock, DEPTHS, num_classes=num_classes, in_channels=in_channels)


def resnet17(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """Two bottlenecks in the first stage, one in each other."""
    return ResNet(Bottleneck, DEPTHS, num_classes=num_classes, in_channels=in_channels)


def efficientnet_narrow(num_classes: int = 1000, in_channels: int = 3) -> EfficientNet:
    """A quarter of B0's width and half its depth: ten blocks, of which four have a shortcut."""
    return EfficientNet(WIDTH, DEPTH, num_classes=num_classes, in_channels=in_channels)


def vit_short_8(num_classes: int = 1000, in_channels: int = 3, image_size: int = 32) -> VisionTransformer:
    """Four layers of width 64 on patches of 8 px: the suite's own small instance."""
    return vit_tiny_8(num_classes, in_channels, image_size)


def _resnet_references() -> tuple[Reference, ...]:
    from reference.libraries.small_networks import RESNET_REFERENCES

    return RESNET_REFERENCES


def _efficientnet_references() -> tuple[Reference, ...]:
    from reference.libraries.small_networks import EFFICIENTNET_REFERENCES

    return EFFICIENTNET_REFERENCES


def _resnet(
    name: str, factory: Callable[..., nn.Module], parameters: int, multiply_adds: int, expansion: int
) -> Specimen:
    architecture = replace(
        resnet.RESNET18,
        name=name,
        parameters=parameters,
        multiply_adds=float(multiply_adds),
        multiply_adds_tolerance=1e-9,
        residual_joins=sum(DEPTHS),
        input_size=128,
        stages=tuple(Stage(width=64 * 2**i * expansion, stride=4 * 2**i) for i in range(4)),
        source=SOURCE,
        facts={},
    )
    family = replace(resnet.FAMILY, architectures=(architecture,), references=_resnet_references)
    return Specimen(family=family, architecture=architecture, factory=factory)


def _efficientnet() -> Specimen:
    widths, strides = (8, 8, 16, 24, 32, 48, 80, 320), (2, 4, 8, 16, 16, 32, 32, 32)
    architecture = replace(
        efficientnet.B0,
        name="efficientnet_narrow",
        parameters=519_822,
        multiply_adds=10_269_216.0,
        multiply_adds_tolerance=1e-9,
        residual_joins=4,
        input_size=128,
        stages=tuple(Stage(width=w, stride=s) for w, s in zip(widths, strides, strict=True)),
        source=SOURCE,
        facts={"dropout": 0.2, "drop_path": 0.2, "gates": 10},
    )
    family = replace(efficientnet.FAMILY, architectures=(architecture,), references=_efficientnet_references)
    return Specimen(family=family, architecture=architecture, factory=efficientnet_narrow)


RESNET12 = _resnet("resnet12", resnet12, 5_492_776, 366_202_880, 1)
RESNET17 = _resnet("resnet17", resnet17, 10_135_336, 552_288_256, 4)
EFFICIENTNET = _efficientnet()
VIT = Specimen(
    family=replace(vit.FAMILY, architectures=(vit.VIT_TINY_8,)), architecture=vit.VIT_TINY_8, factory=vit_short_8
)
