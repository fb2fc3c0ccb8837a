"""Names and signatures that users import, and the names and shapes in the networks' state dicts."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from importlib import import_module

import pytest
import torch

from harness.tests.pinned.pinning import expect_as_recorded

FACTORIES = {
    "resnet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "efficientnet": (*(f"efficientnet_b{i}" for i in range(8)), "efficientnet_lite0"),
    "vit": ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14", "vit_tiny_8"),
    "multitask": ("multitask_resnet50", "uncertainty_weighting"),
    "detector": ("detector_resnet18", "detector_resnet50"),
}
OTHERS = {
    "suites.resnet.model": ("BasicBlock", "Bottleneck", "ResNet"),
    "suites.efficientnet.model": ("EfficientNet", "MBConv", "Recipe", "Scale", "compound_scale", "round_filters"),
    "suites.vit.model": ("EncoderLayer", "SelfAttention", "VisionTransformer", "resize_position_embedding"),
    "suites.multitask.model": (
        *("MultiTask", "Outputs", "UncertaintyWeighting", "multitask_loss", "pcgrad", "task_losses"),
    ),
    "suites.detector.model": ("Detector", "load_backbone"),
    "suites.transfer.recipe": (
        *("FineTuning", "feature_extraction", "full_fine_tuning", "gradual_unfreezing", "layerwise_decay", "lp_ft"),
        *("replace_head", "two_learning_rates"),
    ),
    "reports.frames": (*("Run", "checks", "history", "load", "measurements", "ratios", "samples", "speeds"),),
}
SMALL = ("resnet18", "efficientnet_b0", "vit_tiny_8", "multitask_resnet50", "detector_resnet18")
"""Of these every name and shape is kept, of the others their number and a hash."""


def test_signatures() -> None:
    names = [(f"suites.{family}.model", name) for family, names in FACTORIES.items() for name in names]
    names += [(module, name) for module, names in OTHERS.items() for name in names]
    lines = [f"{module}.{name}{inspect.signature(getattr(import_module(module), name))}" for module, name in names]
    text = re.sub(r"ForwardRef\(('[^']*')[^)]*\)", r"\1", "\n".join(lines))  # later Pythons print it otherwise
    expect_as_recorded("signatures.txt", text + "\n")


def test_tasks_and_weights() -> None:
    module = import_module("suites.multitask.model")
    assert module.TASKS == ("classes", "box", "embedding")
    assert module.WEIGHTS == (1.0, 0.5, 0.2)


@pytest.mark.parametrize("family", FACTORIES)
def test_state_dicts(family: str) -> None:
    found: dict[str, object] = {}
    for name in FACTORIES[family]:
        with torch.device("meta"):
            model = getattr(import_module(f"suites.{family}.model"), name)()
        shapes = {n: " ".join([str(t.dtype), *map(str, t.shape)]) for n, t in model.state_dict().items()}
        digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()
        found[name] = shapes if name in SMALL else {"elements": len(shapes), "sha256": digest}
    expect_as_recorded(f"state_dicts/{family}.json", json.dumps(found, indent=1) + "\n")
