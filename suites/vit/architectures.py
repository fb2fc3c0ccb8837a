"""Published facts of the Vision Transformers.

Widths, layers, heads: Dosovitskiy et al. 2021, Table 1 (which also rounds the parameters to 86, 307 and 632 million).
Exact parameters and multiply-adds, in 10^9: torchvision's builders and their ``_ops`` metadata. Counted are the linear
layers, the patch convolution and attention's two matrix products; softmax, norms, GELU and additions are not. PyTorch's
counter gives the same on the meta device. On a CPU it leaves out fused attention, and with it, in torchvision's
inference path, the projections.
"""

from __future__ import annotations

from harness.subjects.facts import Architecture, Family
from reference.libraries.reference import Reference

_PAPER = "Dosovitskiy et al. 2021, Table 1 (arXiv:2010.11929)"
_TRAINED = {"trained_dropout": 0.1}
"""The largest rate of Table 3, for training on ImageNet; the authors' code fine-tunes without any."""


def _vit(
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    patch: int,
    width: int,
    layers: int,
    heads: int,
    parameters: int,
    billions: float,
    image_size: int = 224,
    default: bool = False,
    large: bool = False,
    source: str = f"{_PAPER}; parameters and multiply-adds: torchvision",
    **facts: float,
) -> Architecture:
    return Architecture(
        name=name,
        aliases=aliases,
        parameters=parameters,
        multiply_adds=billions * 1e9,
        multiply_adds_tolerance=0.001,
        residual_joins=2 * layers,
        input_size=image_size,
        tokens=(1 + (image_size // patch) ** 2, width),
        patch=patch,
        minimum_size=patch,
        default=default,
        large=large,
        source=source,
        facts={
            "layers": layers,
            "heads": heads,
            "mlp_width": 4 * width,
            "dropout": 0.0,
            "norm_eps": 1e-6,
            **_TRAINED,
            **facts,
        },
    )


def _references() -> tuple[Reference, ...]:
    from reference.libraries import timm_vit, torchvision_vit

    return torchvision_vit.REFERENCE, timm_vit.REFERENCE


VIT_B_16 = _vit(
    "vit_b_16",
    aliases=("vit_base_patch16_224",),
    patch=16,
    width=768,
    layers=12,
    heads=12,
    parameters=86_567_656,
    billions=17.564,
    default=True,
    table1_parameters=86e6,
)
VIT_B_32 = _vit(
    "vit_b_32",
    aliases=("vit_base_patch32_224",),
    patch=32,
    width=768,
    layers=12,
    heads=12,
    parameters=88_224_232,
    billions=4.409,
)
VIT_L_16 = _vit(
    "vit_l_16",
    aliases=("vit_large_patch16_224",),
    patch=16,
    width=1024,
    layers=24,
    heads=16,
    parameters=304_326_632,
    billions=61.555,
    large=True,
    table1_parameters=307e6,
)
VIT_L_32 = _vit(
    "vit_l_32",
    aliases=("vit_large_patch32_224",),
    patch=32,
    width=1024,
    layers=24,
    heads=16,
    parameters=306_535_400,
    billions=15.378,
    large=True,
)
VIT_H_14 = _vit(
    "vit_h_14",
    aliases=("vit_huge_patch14_224",),
    patch=14,
    width=1280,
    layers=32,
    heads=16,
    parameters=632_045_800,
    billions=167.295,
    large=True,
    table1_parameters=632e6,
)
VIT_TINY_8 = _vit(
    "vit_tiny_8",
    patch=8,
    width=64,
    layers=4,
    heads=4,
    parameters=278_568,
    billions=0.003751,
    image_size=32,
    default=True,
    source="this suite: a small instance of the published definition, for tests",
)

FAMILY = Family(
    name="vit",
    architectures=(VIT_B_16, VIT_B_32, VIT_L_16, VIT_L_32, VIT_H_14, VIT_TINY_8),
    model="suites.vit.model",
    references=_references,
    own_checks=("attention", "sharp_attention", "patch_order"),
)
