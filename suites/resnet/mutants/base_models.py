"""Small correct ResNets, with facts and references of their own size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from harness.mutants.variant import SOURCE, BaseModel
from harness.subjects.facts import Stage
from reference.libraries.reference import Reference
from suites.resnet import architectures as resnet
from suites.resnet.model import BasicBlock, Bottleneck, ResNet

DEPTHS = (2, 1, 1, 1)


def resnet12(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """Two basic blocks in the first stage, one in each other."""
    return ResNet(BasicBlock, DEPTHS, num_classes=num_classes, in_channels=in_channels)


def resnet17(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """Two bottlenecks in the first stage, one in each other."""
    return ResNet(Bottleneck, DEPTHS, num_classes=num_classes, in_channels=in_channels)


def _resnet_references() -> tuple[Reference, ...]:
    from reference.libraries.small_networks import RESNET_REFERENCES

    return RESNET_REFERENCES


def _resnet(
    name: str, factory: Callable[..., nn.Module], parameters: int, multiply_adds: int, expansion: int
) -> BaseModel:
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
    return BaseModel(family=family, architecture=architecture, factory=factory)


RESNET12 = _resnet("resnet12", resnet12, 5_492_776, 366_202_880, 1)
RESNET17 = _resnet("resnet17", resnet17, 10_135_336, 552_288_256, 4)
