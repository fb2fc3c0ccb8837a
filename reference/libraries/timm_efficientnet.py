"""timm's EfficientNets."""

from __future__ import annotations

import timm
from torch import nn

from reference.libraries.reference import Reference

DROPOUT = {
    "efficientnet_b0": 0.2,
    "efficientnet_b1": 0.2,
    "efficientnet_b2": 0.3,
    "efficientnet_b3": 0.3,
    "efficientnet_b4": 0.4,
    "efficientnet_b5": 0.4,
    "efficientnet_b6": 0.5,
    "efficientnet_b7": 0.5,
    "efficientnet_lite0": 0.2,
}
"""Published rate of each architecture; timm's own default is no dropout."""
DROP_PATH = 0.2
SLOW_NORM = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7")
"""Built with BatchNorm eps 1e-3 and momentum 0.01, as published; timm's default is torch's 1e-5 and 0.1."""


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
    norm_eps: float | None = None,
    norm_momentum: float | None = None,
    padding: str | None = None,
) -> nn.Module:
    """``timm.create_model(name)`` without pretrained weights, with the published rates; it takes images of any size.

    ``padding`` is "symmetric" or "same" (TensorFlow's: timm's ``tf_`` models, eps 1e-3). The default is symmetric for
    the B series and same for Lite0, whose published weights need it.
    """
    if name not in DROPOUT:
        raise KeyError(name)
    same = (padding or ("same" if "lite" in name else "symmetric")) == "same"
    slow = name in SLOW_NORM
    model: nn.Module = timm.create_model(
        f"tf_{name}" if same else name,
        pretrained=False,
        num_classes=num_classes,
        in_chans=in_channels,
        drop_rate=DROPOUT[name] if dropout is None else dropout,
        drop_path_rate=DROP_PATH if drop_path is None else drop_path,
        bn_eps=norm_eps if norm_eps is not None else 1e-3 if slow or same else 1e-5,
        bn_momentum=norm_momentum if norm_momentum is not None else 0.01 if slow else 0.1,
    )
    return model


REFERENCE = Reference(library="timm", version=timm.__version__, build=build)
