"""Weights are read without running code, and loaded all or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from reference.weights.checkpoint_files import by_position, load_weights, read_weights


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def other_weights() -> dict[str, Tensor]:
    """Different from `network`'s in every tensor."""
    return {name: value + 1 for name, value in network().state_dict().items()}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    weights, path = other_weights(), tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    model = network()
    load_weights(model, read_weights(path))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("3.bias"), "missing 3.bias"),
        (lambda w: w.update({"4.scale": torch.ones(1)}), "not in the model 4.scale"),
        (
            lambda w: w.update({"0.weight": torch.ones(4, 3, 5, 5)}),
            r"0.weight \(4, 3, 5, 5\) \(allowed: \(4, 3, 3, 3\)\)",
        ),
        (lambda w: w.update({"3.bias": torch.tensor([0.0, torch.nan])}), "not finite 3.bias"),
        (lambda w: w.clear(), "missing 0.weight, 0.bias, 1.weight and 5 more"),
    ],
    ids=["missing", "extra", "misshapen", "nan", "empty"],
)
def test_nothing_is_half_loaded(change: object, message: str) -> None:
    assert callable(change)
    weights, model = other_weights(), network()
    change(weights)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(model, weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_another_architecture() -> None:
    from suites.efficientnet.model import efficientnet_b0
    from suites.vit.model import vit_tiny_8

    with pytest.raises(ValueError, match=r"the weights do not fit EfficientNet: missing .*; not in the model "):
        load_weights(efficientnet_b0(num_classes=2), vit_tiny_8(num_classes=2).state_dict())


def test_old_checkpoints_without_a_batch_count() -> None:
    weights, model = other_weights(), network()
    del weights["1.num_batches_tracked"]
    load_weights(model, weights)
    assert model.state_dict()["1.num_batches_tracked"] == 0


def test_other_dtypes_are_converted() -> None:
    model = network().double()
    load_weights(
        model, {name: value.half() if value.is_floating_point() else value for name, value in other_weights().items()}
    )
    assert model[3].weight.dtype is torch.float64


class Gadget:
    """What must never run: unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Gadget(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        read_weights(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt: no such file"):
        read_weights(tmp_path / "nowhere.pt")
    for name in ("empty.pt", "empty.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=name):
            read_weights(tmp_path / name)
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a dict of tensors by name, got list"):
        read_weights(tmp_path / "list.pt")


def test_by_position() -> None:
    model = network()
    renamed = {f"tensor{i}": value for i, value in enumerate(other_weights().values())}
    assert by_position(model, renamed).keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match=r"tensor1 \(4,\) stands where 0.weight \(4, 3, 3, 3\) belongs"):
        by_position(model, {name: value for name, value in renamed.items() if name != "tensor0"})
    with pytest.raises(ValueError, match="8 tensors for a Sequential of 9"):
        by_position(model, {name: value for name, value in renamed.items() if name != "tensor8"})
