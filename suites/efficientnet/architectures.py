"""Published facts of the EfficientNets.

Parameters: torchvision's builders. Multiply-adds: counted by torchvision (its ``_ops`` metadata, in 10^9) at the
paper's image sizes, except B2, whose metadata are for 288 px: 0.994 is the same count at 260 px. Tan & Le 2019,
Table 2, is kept in ``facts`` as printed; its counts for B4, B5 and B7 are 2 to 5 % lower.
"""

from __future__ import annotations

from harness.subjects.facts import Architecture, Family, Stage
from reference.libraries.reference import Reference

_STRIDES = (2, 4, 8, 16, 16, 32, 32, 32)


def _stages(widths: tuple[int, ...]) -> tuple[Stage, ...]:
    """The seven stages of blocks and the final 1x1 convolution."""
    return tuple(Stage(width=width, stride=stride) for width, stride in zip(widths, _STRIDES, strict=True))


def _efficientnet(
    index: int,
    *,
    size: int,
    width: float,
    depth: float,
    parameters: int,
    billions: float,
    table2: tuple[float, float],
    joins: int,
    gates: int,
    widths: tuple[int, ...],
    dropout: float,
) -> Architecture:
    return Architecture(
        name=f"efficientnet_b{index}",
        parameters=parameters,
        multiply_adds=billions * 1e9,
        multiply_adds_tolerance=0.002,
        residual_joins=joins,
        input_size=size,
        stages=_stages(widths),
        default=index == 0,
        large=index >= 5,
        source="Tan & Le 2019, Tables 1 and 2 (arXiv:1905.11946); parameters and multiply-adds: torchvision",
        conventions=({},) if index < 5 else ({}, {"norm_eps": 1e-5, "norm_momentum": 0.1}),
        facts={
            "index": index,
            "width": width,
            "depth": depth,
            "dropout": dropout,
            "drop_path": 0.2,
            "gates": gates,
            "table2_parameters": table2[0] * 1e6,
            "table2_multiply_adds": table2[1] * 1e9,
        },
    )


def _references() -> tuple[Reference, ...]:
    from reference.libraries import timm_efficientnet, torchvision_efficientnet

    return torchvision_efficientnet.REFERENCE, timm_efficientnet.REFERENCE


B0 = _efficientnet(
    0,
    size=224,
    width=1.0,
    depth=1.0,
    parameters=5_288_548,
    billions=0.386,
    table2=(5.3, 0.39),
    joins=9,
    gates=16,
    widths=(16, 24, 40, 80, 112, 192, 320, 1280),
    dropout=0.2,
)
B1 = _efficientnet(
    1,
    size=240,
    width=1.0,
    depth=1.1,
    parameters=7_794_184,
    billions=0.687,
    table2=(7.8, 0.7),
    joins=16,
    gates=23,
    widths=(16, 24, 40, 80, 112, 192, 320, 1280),
    dropout=0.2,
)
B2 = _efficientnet(
    2,
    size=260,
    width=1.1,
    depth=1.2,
    parameters=9_109_994,
    billions=0.994,
    table2=(9.2, 1.0),
    joins=16,
    gates=23,
    widths=(16, 24, 48, 88, 120, 208, 352, 1408),
    dropout=0.3,
)
B3 = _efficientnet(
    3,
    size=300,
    width=1.2,
    depth=1.4,
    parameters=12_233_232,
    billions=1.827,
    table2=(12, 1.8),
    joins=19,
    gates=26,
    widths=(24, 32, 48, 96, 136, 232, 384, 1536),
    dropout=0.3,
)
B4 = _efficientnet(
    4,
    size=380,
    width=1.4,
    depth=1.8,
    parameters=19_341_616,
    billions=4.394,
    table2=(19, 4.2),
    joins=25,
    gates=32,
    widths=(24, 32, 56, 112, 160, 272, 448, 1792),
    dropout=0.4,
)
B5 = _efficientnet(
    5,
    size=456,
    width=1.6,
    depth=2.2,
    parameters=30_389_784,
    billions=10.266,
    table2=(30, 9.9),
    joins=32,
    gates=39,
    widths=(24, 40, 64, 128, 176, 304, 512, 2048),
    dropout=0.4,
)
B6 = _efficientnet(
    6,
    size=528,
    width=1.8,
    depth=2.6,
    parameters=43_040_704,
    billions=19.068,
    table2=(43, 19),
    joins=38,
    gates=45,
    widths=(32, 40, 72, 144, 200, 344, 576, 2304),
    dropout=0.5,
)
B7 = _efficientnet(
    7,
    size=600,
    width=2.0,
    depth=3.1,
    parameters=66_347_960,
    billions=37.746,
    table2=(66, 37),
    joins=48,
    gates=55,
    widths=(32, 48, 80, 160, 224, 384, 640, 2560),
    dropout=0.5,
)
LITE0 = Architecture(
    name="efficientnet_lite0",
    aliases=("tf_efficientnet_lite0",),
    parameters=4_652_008,
    multiply_adds=0.385e9,
    multiply_adds_tolerance=0.002,
    residual_joins=9,
    stages=_stages((16, 24, 40, 80, 112, 192, 320, 1280)),
    default=True,
    source="TensorFlow's EfficientNet-lite page (4.7 M parameters); multiply-adds counted, convolutions and head",
    conventions=({}, {"padding": "symmetric", "norm_eps": 1e-5}),
    facts={"width": 1.0, "depth": 1.0, "dropout": 0.2, "drop_path": 0.2, "gates": 0, "page_multiply_adds": 0.407e9},
)

FAMILY = Family(
    name="efficientnet",
    architectures=(B0, B1, B2, B3, B4, B5, B6, B7, LITE0),
    model="suites.efficientnet.model",
    references=_references,
    own_checks=("gates",),
)
