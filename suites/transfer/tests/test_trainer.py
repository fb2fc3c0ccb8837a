"""Training from the command line's parts: data, cached features, checkpoints, interruptions."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder

from suites.training.checkpoint import CheckpointError, load
from suites.transfer import recipe as recipes
from suites.transfer.checks.backbones import CONVNET, DROPOUT, Backbone
from suites.transfer.data import Data, DataError, digits, image_folder
from suites.transfer.feature_cache import cache_features
from suites.transfer.trainer import BEST, LAST, Trainer


def brightness(count: int = 24) -> TensorDataset:
    """Images (3, 32, 32) whose brightness is their class."""
    labels = torch.arange(count) % 5
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + labels.view(-1, 1, 1, 1)
    return TensorDataset(images.double(), labels)


def five_classes() -> Data:
    held = brightness()
    return Data(name="brightness", train=held, validation=held, classes=("a", "b", "c", "d", "e"))


def fit(folder: Path, recipe: str = "gradual_unfreezing", backbone: Backbone = CONVNET, **given: Any) -> Trainer:
    tuning = getattr(recipes, recipe)(backbone.model(), backbone.head, lr=1e-2)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, **given}
    return Trainer(tuning=tuning, data=five_classes(), folder=folder, **settings)


def same(a: Trainer, b: Trainer) -> bool:
    pairs = zip(a.tuning.model.state_dict().values(), b.tuning.model.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    ("stop", "number"), [(1, signal.SIGINT), (3, signal.SIGINT), (4, signal.SIGTERM), (6, signal.SIGINT)]
)
def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path, stop: int, number: signal.Signals) -> None:
    """Within an epoch, at its end and at the last one's, with dropout: weights, history, everything."""
    torch.manual_seed(0)
    whole = fit(tmp_path / "whole", backbone=DROPOUT)
    assert whole.run()
    torch.manual_seed(0)
    first = fit(tmp_path / "parts", backbone=DROPOUT)
    first.on_step = lambda done, steps, loss: os.kill(os.getpid(), number) if done == stop else None
    before = signal.getsignal(number)
    assert not first.run()
    assert signal.getsignal(number) is before
    torch.manual_seed(1)
    second = fit(tmp_path / "parts", backbone=DROPOUT)
    second.resume(tmp_path / "parts" / LAST)
    assert second.run()
    assert same(whole, second)
    assert [(e.step, e.loss, e.accuracy) for e in second.history] == [
        (e.step, e.loss, e.accuracy) for e in whole.history
    ]


def test_a_second_signal_ends_a_training_at_once(tmp_path: Path) -> None:
    made = fit(tmp_path)

    def twice(done: int, steps: int, loss: float) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    made.on_step = twice
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert made.step == 1


def test_every_phase_is_reached(tmp_path: Path) -> None:
    made = fit(tmp_path, epochs=3)
    assert made.run()
    assert made.tuning.phase == len(made.tuning.phases) - 1
    assert {e.phase for e in made.history} == {1, 4}


def test_patience_ends_a_training_that_does_not_improve(tmp_path: Path) -> None:
    made = fit(tmp_path, "full_fine_tuning", epochs=9, patience=2)
    accuracies = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    made.accuracy = lambda: next(accuracies)  # type: ignore[method-assign]
    assert made.run()
    assert [e.accuracy for e in made.history] == [0.5, 0.6, 0.6, 0.4]
    assert load(tmp_path / BEST).facts["history"][-1]["accuracy"] == 0.6


def test_checkpoints_are_held_to_what_is_asked_for(tmp_path: Path) -> None:
    assert fit(tmp_path, "lp_ft", epochs=1).run()
    with pytest.raises(CheckpointError, match="a checkpoint of lp_ft, not of full_fine_tuning"):
        fit(tmp_path, "full_fine_tuning", epochs=1).resume(tmp_path / LAST)
    with pytest.raises(CheckpointError, match="saved with seed 0; asked for 3"):
        fit(tmp_path, "lp_ft", epochs=1, seed=3).resume(tmp_path / LAST)
    other = fit(tmp_path, "lp_ft", epochs=1)
    other.data = replace(other.data, classes=("a", "b", "c", "d", "f"))
    with pytest.raises(CheckpointError, match="saved with classes"):
        other.resume(tmp_path / LAST)
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        other.resume(tmp_path / "nothing.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / LAST).read_bytes()[:500])
    with pytest.raises(CheckpointError, match="not a checkpoint of a training"):
        other.resume(tmp_path / "torn.safetensors")


def test_cached_features_train_the_same_head(tmp_path: Path) -> None:
    plain, cached = (fit(tmp_path / n, "feature_extraction", cached=n == "cached") for n in ("plain", "cached"))
    assert plain.run()
    assert cached.run()
    for a, b in zip(plain.tuning.model.parameters(), cached.tuning.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_wrong_cache_is_refused() -> None:
    data = five_classes()
    frozen = recipes.feature_extraction(CONVNET.model(), "fc")
    with pytest.raises(ValueError, match=r"stem.0.weight trains as well"):
        cache_features(recipes.full_fine_tuning(CONVNET.model(), "fc"), data.train)
    loose = recipes.feature_extraction(CONVNET.model(), "fc")
    for module in loose.model.modules():
        module._forward_pre_hooks.clear()
    with pytest.raises(ValueError, match="BatchNorm or dropout is at work"):
        cache_features(loose, data.train)

    class Drawn(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            image, label = (values[index] for values in self.tensors)
            return (image.flip(-1) if torch.rand(()) < 0.5 else image), label

    with pytest.raises(ValueError, match="another one each time"):
        cache_features(frozen, Drawn(*brightness().tensors))


def test_class_count_and_labels_out_of_range(tmp_path: Path) -> None:
    data = five_classes()
    tuning = recipes.full_fine_tuning(CONVNET.model(), "fc")
    with pytest.raises(DataError, match="the network has 5 classes and brightness has 2"):
        Trainer(tuning=tuning, data=replace(data, classes=("a", "b")), folder=tmp_path, epochs=1, batch_size=8)
    images, labels = brightness().tensors
    wrong = TensorDataset(images, labels + 1)
    with pytest.raises(DataError, match="class 5 is out of range: the network has 5 classes, from 0"):
        Trainer(tuning=tuning, data=replace(data, train=wrong), folder=tmp_path, epochs=1, batch_size=24).run()


def test_digits_are_split_the_same_way_every_time() -> None:
    pytest.importorskip("sklearn")
    data = digits(8)
    assert isinstance(data.train, TensorDataset)
    assert isinstance(data.validation, TensorDataset)
    assert (len(data.train), len(data.validation)) == (1347, 450)
    assert data.train[0][0].shape == (3, 8, 8)
    assert int(data.train.tensors[0].min()) == -1
    assert int(data.train.tensors[0].max()) == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with three images each for training and two for validation."""
    image = pytest.importorskip("PIL.Image")
    for part, count in (("train", 3), ("val", 2)):
        for name, shade in (("cat", 40), ("dog", 200)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                image.new("RGB", (20, 12), (shade, number, 0)).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def test_image_folder(folder: Path) -> None:
    data = image_folder(folder, 16)
    assert isinstance(data.train, ImageFolder)
    assert isinstance(data.validation, ImageFolder)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.validation)) == (6, 4)
    image, label = data.train[0]
    assert image.shape == (3, 16, 16)
    assert label == 0
    with pytest.raises(ValueError, match="images are augmented"):
        cache_features(recipes.feature_extraction(CONVNET.model(), "fc"), image_folder(folder, 16, augment=True).train)


def test_corrupt_files_are_named_and_skipped_on_request(folder: Path) -> None:
    broken = folder / "train" / "cat" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(DataError, match=r"1\.png can't be read as images; give --skip-corrupt"):
        image_folder(folder, 16)
    data = image_folder(folder, 16, skip_corrupt=True)
    assert isinstance(data.train, ImageFolder)
    assert len(data.train) == 5
    assert "1.png" in data.notices[0]
    for file in (folder / "val" / "dog").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="no readable image in dog"):
        image_folder(folder, 16, skip_corrupt=True)


def test_missing_and_empty_folders_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        image_folder(folder / "nothing", 16)
    (folder / "val" / "fox").mkdir()
    with pytest.raises(DataError, match="fox"):
        image_folder(folder, 16)


def test_command(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One epoch on a folder with a small network, then resumed for nothing more, then wrong requests."""
    from suites.transfer.__main__ import main

    model = [
        "--model",
        "suites.efficientnet.mutants.base_models:efficientnet_narrow",
        "--side",
        "32",
        "--batch-size",
        "3",
    ]
    given = ["--data", f"imagefolder:{folder}", "--results", str(tmp_path / "runs"), *model, "--epochs", "1"]
    assert main([*given, "--recipe", "lp_ft", "--schedule", "cosine"]) == 0
    said = capsys.readouterr().out
    assert "lp_ft: epoch 1, step 2, phase 1: loss" in said
    (run,) = (tmp_path / "runs").iterdir()
    assert '"quantity": "accuracy"' in (run / "records.jsonl").read_text()
    assert main([*given, "--recipe", "lp_ft", "--schedule", "cosine", "--resume", str(run)]) == 0
    for wrong, message in (
        (["--recipe", "gradual", "--resume", str(run)], "there is no such checkpoint"),
        (["--recipe", "gradual", "--cached"], "only feature_extraction can keep them"),
        (["--recipe", "lp_ft", "--head", "fc"], "has no part called 'fc'"),
        (["--recipe", "lp_ft", "--backbone-lr", "1"], "backbone_lr=1 is above lr=0.001"),
        (["--recipe", "lp_ft", "--data", "cats"], "--data cats: known: digits, imagefolder:DIR"),
        (["--recipe", "lp_ft", "--keep-head"], "1000 classes"),
    ):
        assert main([*given, *wrong]) == 4
        assert message in capsys.readouterr().out
