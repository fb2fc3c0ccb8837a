"""Published facts of the ResNets.

Parameters and multiply-adds: torchvision's model table for the "v1.5" networks (its ``_ops`` metadata, in 10^9
multiply-adds). He et al. 2015, Table 1, gives 1.8, 3.6, 3.8, 7.6 and 11.3 for the networks whose bottleneck strides in
the first 1x1 (kept in ``facts``); moving the stride to the 3x3 costs the difference.
"""

from __future__ import annotations

from harness.subjects.facts import Architecture, Family, Stage
from reference.libraries.reference import Reference


def _stages(expansion: int) -> tuple[Stage, ...]:
    return tuple(Stage(width=64 * 2**i * expansion, stride=4 * 2**i) for i in range(4))


def _resnet(
    depth: int,
    blocks: tuple[int, int, int, int],
    expansion: int,
    parameters: int,
    billions: float,
    table1: float,
    default: bool = False,
) -> Architecture:
    return Architecture(
        name=f"resnet{depth}",
        parameters=parameters,
        multiply_adds=billions * 1e9,
        multiply_adds_tolerance=0.001,
        residual_joins=sum(blocks),
        stages=_stages(expansion),
        default=default,
        source="He et al. 2015, Table 1 (arXiv:1512.03385); parameters and multiply-adds of v1.5: torchvision",
        facts={"blocks": blocks, "table1_multiply_adds": table1 * 1e9},
    )


def _references() -> tuple[Reference, ...]:
    from reference.libraries import timm_resnet, torchvision_resnet

    return torchvision_resnet.REFERENCE, timm_resnet.REFERENCE


RESNET18 = _resnet(18, (2, 2, 2, 2), 1, 11_689_512, 1.814, 1.8, default=True)
RESNET34 = _resnet(34, (3, 4, 6, 3), 1, 21_797_672, 3.664, 3.6)
RESNET50 = _resnet(50, (3, 4, 6, 3), 4, 25_557_032, 4.089, 3.8, default=True)
RESNET101 = _resnet(101, (3, 4, 23, 3), 4, 44_549_160, 7.801, 7.6)
RESNET152 = _resnet(152, (3, 8, 36, 3), 4, 60_192_808, 11.514, 11.3)

FAMILY = Family(
    name="resnet",
    architectures=(RESNET18, RESNET34, RESNET50, RESNET101, RESNET152),
    model="suites.resnet.model",
    references=_references,
)
