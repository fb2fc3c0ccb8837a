"""What a subject's file does to the process while it is imported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import mlp
from torch import nn

from harness.checks.side_effects import expect_quiet_import
from harness.process.global_state import changes, preserved, settings
from harness.process.monkeypatches import holders, put_back, replaced
from harness.subjects.loading import given_subjects
from harness.subjects.subject import Subject
from harness.tests.tiny import family

MODEL = "\ndef tiny(num_classes=1000): ...\n"


def imported(tmp_path: Path, text: str) -> Subject:
    path = tmp_path / f"imported_{abs(hash(text))}.py"
    path.write_text(text + MODEL)
    (subject,) = given_subjects(str(path), family(), ())
    return subject


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import torch; torch.set_default_dtype(torch.float64)", "default dtype was torch.float32, is torch.float64"),
        ("import torch; torch.set_grad_enabled(False)", "gradient mode was True, is False"),
        ("import torch; torch.set_float32_matmul_precision('medium')", "float32 matmul precision"),
        ("import torch.nn.functional as F; F.gelu = F.relu", "torch.nn.functional.gelu replaced"),
        ("import torch; torch.nn.LayerNorm = torch.nn.Identity", "torch.nn.LayerNorm replaced"),
        ("import torch; torch.nn.Dropout.forward = lambda self, x: x", "torch.nn.Dropout.forward replaced"),
        ("import torch; torch.Tensor.softmax = torch.Tensor.sigmoid", "torch.Tensor.softmax replaced"),
        (
            "import torchvision; torchvision.ops.misc.SqueezeExcitation.forward = lambda self, x: x",
            "torchvision.ops.misc.SqueezeExcitation.forward replaced",
        ),
        ("import timm.layers.mlp as mlp; mlp.Mlp.forward = lambda self, x: x", "timm.layers.mlp.Mlp.forward replaced"),
    ],
)
def test_what_changes_other_models_is_said_and_undone(tmp_path: Path, text: str, named: str) -> None:
    with preserved():
        before = settings()
        subject = imported(tmp_path, text)
        assert list(changes(before)) == []
    with pytest.raises(AssertionError, match=r"importing .* changes the whole process") as caught:
        expect_quiet_import(subject)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "import torch; torch.backends.cudnn.benchmark = True",
        "import torch; torch.set_num_threads(torch.get_num_threads())",
        "import logging; logging.getLogger().setLevel(logging.ERROR)",
        "import torch; torch.manual_seed(3)",
        "import torch, torchvision, timm; torch.compile(torch.nn.Linear(2, 2), backend='eager')(torch.ones(1, 2))",
        "import torch; from torch.nn import functional as F; F.added = F.gelu; gelu = torch.tanh",
        "import torch\nclass LayerNorm(torch.nn.LayerNorm):\n    def forward(self, x): return x",
    ],
)
def test_what_a_script_may_do(tmp_path: Path, text: str) -> None:
    with preserved():
        try:
            expect_quiet_import(imported(tmp_path, text))
        finally:
            vars(F).pop("added", None)


def test_a_file_that_is_not_ours_to_import_is_none(tmp_path: Path) -> None:
    subject = imported(tmp_path, "")
    expect_quiet_import(replace(subject, spec="never.imported"))


def test_several_replaced_functions_are_put_back_in_any_order() -> None:
    before = holders()
    norm, forward, gate = nn.LayerNorm, nn.LayerNorm.forward, torchvision.ops.misc.SqueezeExcitation.forward
    nn.LayerNorm.forward = nn.Identity.forward  # type: ignore[method-assign,assignment]
    nn.LayerNorm = nn.BatchNorm2d  # type: ignore[misc,assignment]
    torchvision.ops.misc.SqueezeExcitation.forward = mlp.Mlp.forward
    assert replaced(before) == [
        "torch.nn.LayerNorm",
        "torch.nn.LayerNorm.forward",
        "torchvision.ops.misc.SqueezeExcitation.forward",
    ]
    put_back(before)
    assert (nn.LayerNorm, nn.LayerNorm.forward) == (norm, forward)
    assert torchvision.ops.misc.SqueezeExcitation.forward is gate
    assert replaced(before) == []


def test_compiling_and_exporting_replace_nothing() -> None:
    before = holders()
    layer = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    torch.compile(layer, backend="aot_eager")(torch.ones(1, 2))
    torch.export.export(layer, (torch.ones(1, 2),))
    assert replaced(before) == []
