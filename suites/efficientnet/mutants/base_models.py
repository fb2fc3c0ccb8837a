"""A small correct EfficientNet, with facts and references of its own size."""

from __future__ import annotations

from dataclasses import replace

from harness.mutants.variant import SOURCE, BaseModel
from harness.subjects.facts import Stage
from reference.libraries.reference import Reference
from suites.efficientnet import architectures as efficientnet
from suites.efficientnet.model import EfficientNet

WIDTH, DEPTH = 0.25, 0.5


def efficientnet_narrow(num_classes: int = 1000, in_channels: int = 3) -> EfficientNet:
    """A quarter of B0's width and half its depth: ten blocks, of which four have a shortcut."""
    return EfficientNet(WIDTH, DEPTH, num_classes=num_classes, in_channels=in_channels)


def _efficientnet_references() -> tuple[Reference, ...]:
    from reference.libraries.small_networks import EFFICIENTNET_REFERENCES

    return EFFICIENTNET_REFERENCES


def _efficientnet() -> BaseModel:
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
    return BaseModel(family=family, architecture=architecture, factory=efficientnet_narrow)


EFFICIENTNET = _efficientnet()
