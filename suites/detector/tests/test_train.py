"""Training: it learns, goes on exactly where it stopped, and does the same with two processes as with one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from harness.records.codec import read_records
from harness.records.schema import MeasurementRecord
from reference.libraries.torchvision_detector import state_as_assembled
from suites.detector import train
from suites.detector.config import DetectorConfig, build, check_sizes
from suites.detector.data.annotations import DataError
from suites.detector.data.dataset import DetectionImages, read
from suites.detector.distributed import Processes
from suites.detector.synthetic import write
from suites.detector.trainer import LAST, Settings, Trainer, TrainingError
from suites.training.checkpoint import CheckpointError

SMALL = DetectorConfig(
    arch="detector_resnet18", num_classes=5, side=64, width=16, hidden=32, anchors=(8, 16, 32, 48, 64), roi_samples=16
)
OPTIONS = [
    *("--arch", "detector_resnet18", "--side", "64", "--width", "16", "--hidden", "32", "--roi-samples", "16"),
    *("--anchors", "8,16,32,48,64", "--warmup", "0", "--drops", "9", "--lr", "0.02"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shapes")
    write(made, "coco", train=8, val=3, side=64)
    return made


def training(data: Path, folder: Path, network: DetectorConfig = SMALL, **settings: Any) -> Trainer:
    annotations = read(f"coco:{data}", "train")
    return Trainer(
        network=network,
        settings=Settings(**{"epochs": 2, "batch_size": 2, "rate": 0.02, **settings}),
        train=DetectionImages(annotations, crowds=False),
        validation=DetectionImages(read(f"coco:{data}", "val", annotations.categories)),
        processes=Processes(device=torch.device("cpu")),
        folder=folder,
    )


def weights(path: Path) -> dict[str, Tensor]:
    return {n: t for n, t in load_file(path).items() if n.startswith("model.")}


def test_overfits_four_images(tmp_path: Path) -> None:
    write(tmp_path, "coco", train=4, val=1, side=64, seed=3)
    annotations = read(f"coco:{tmp_path}", "train")
    made = training(tmp_path, tmp_path / "run", replace(SMALL, width=32, hidden=64, roi_samples=64), **OVERFIT)
    made.validation = DetectionImages(annotations)
    losses: list[float] = []
    made.on_step = lambda done, steps, loss: losses.append(loss)
    made.save = lambda name=LAST: tmp_path / name  # type: ignore[method-assign]  # an epoch is one step here
    figures = made.evaluate
    made.evaluate = lambda: figures() if made.step == made.steps else {"map": 0.0}  # type: ignore[method-assign]
    assert made.run()
    assert sum(losses[-5:]) < sum(losses[:5]) / 4
    assert made.history[-1].figures["map_50"] > 0.9


OVERFIT = {"epochs": 360, "batch_size": 4, "rate": 0.08, "warmup": 10, "drops": (320,)}


@pytest.mark.parametrize("at", [3, 4, 6])
def test_a_signal_loses_nothing_and_the_resumed_training_is_the_same(at: int, folder: Path, tmp_path: Path) -> None:
    whole = training(folder, tmp_path / "whole")
    assert whole.run()
    first = training(folder, tmp_path / "parts")
    first.on_step = lambda done, steps, loss: os.kill(os.getpid(), signal.SIGINT) if done == at else None
    before = signal.getsignal(signal.SIGINT)
    assert not first.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert first.step == at
    second = training(folder, tmp_path / "parts")
    second.resume(tmp_path / "parts" / LAST)
    torch.manual_seed(at)  # the state of torch's own generator must not matter
    assert second.run()
    one, other = weights(tmp_path / "whole" / LAST), weights(tmp_path / "parts" / LAST)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert [e.figures for e in second.history] == [e.figures for e in whole.history]
    assert [e.loss for e in second.history] == [e.loss for e in whole.history]


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        ({"arch": "detector_resnet50"}, {}, "saved with arch detector_resnet18; asked for detector_resnet50"),
        ({"width": 8}, {}, "saved with width 16; asked for 8"),
        ({}, {"seed": 1}, "saved with seed 0; asked for 1"),
        ({}, {"batch_size": 4}, "saved with global batch 2; asked for 4"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    network: dict[str, Any], settings: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    training(folder, tmp_path).save()
    with pytest.raises(CheckpointError, match=message):
        training(folder, tmp_path, replace(SMALL, **network), **settings).resume(tmp_path / LAST)


def test_two_processes_do_what_one_does_with_their_images(folder: Path, tmp_path: Path) -> None:
    common = ["--data", f"coco:{folder}", *OPTIONS, "--norm", "frozen", "--epochs", "1", "--clip", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name, launch, batch in (
        ("one", [sys.executable, "-m"], 4),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"], 2),
    ):
        command = [*launch, "suites.detector.train", *common, "--batch-size", str(batch)]
        done = run(
            [*command, "--results", str(tmp_path / name)], capture_output=True, text=True, env=environment, timeout=150
        )
        assert done.returncode == 0, done.stderr + done.stdout
    one, two = (next((tmp_path / name).rglob(LAST)) for name in ("one", "two"))
    start = build(replace(SMALL, norm="frozen"), 0).state_dict()
    moved = difference = 0.0
    for name, tensor in weights(one).items():
        moved = max(moved, float((tensor - start[name.removeprefix("model.")]).abs().max()))
        difference = max(difference, float((tensor - weights(two)[name]).abs().max()))
    assert moved > 1e-4
    # Sums over other groupings differ by rounding only; half or twice the rate, other draws or flips by all of it.
    assert difference < 1e-3 * moved
    rows = [measured(p.parent.parent / "records.jsonl", "average_precision") for p in (one, two)]
    assert [len(r) for r in rows] == [1, 1]
    details = [r.details for (r,) in rows]
    assert [d["processes"] for d in details] == [1, 2]
    assert details[0]["loss"] == pytest.approx(details[1]["loss"], rel=1e-4)


def test_workers_change_nothing_and_one_that_dies_is_reported(folder: Path, tmp_path: Path) -> None:
    made = [training(folder, tmp_path / str(workers), epochs=1) for workers in (0, 1)]
    for workers, one in enumerate(made):
        one.workers = workers
        assert one.run()
    first, second = weights(tmp_path / "0" / LAST), weights(tmp_path / "1" / LAST)
    assert all(torch.equal(first[n], second[n]) for n in first)

    class Deadly(DetectionImages):
        def __getitem__(self, index: int) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    dying = training(folder, tmp_path / "dying")
    dying.workers = 1
    dying.step, dying.train = 1, Deadly(dying.train.annotations)
    with pytest.raises(TrainingError, match=r"a process that reads images died .*--resume"):
        dying.run()
    resumed = training(folder, tmp_path / "dying")
    resumed.resume(tmp_path / "dying" / LAST)
    assert resumed.step == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_spoils_later_is_named_and_the_state_saved(workers: int, tmp_path: Path) -> None:
    write(tmp_path, "coco", train=4, val=1, side=64)
    made = training(tmp_path, tmp_path / "run")
    made.workers = workers

    def spoil(done: int, steps: int, loss: float) -> None:
        for file in (tmp_path / "train2017").iterdir():
            file.write_bytes(b"")

    made.on_step = spoil
    with pytest.raises(DataError, match=r"^\S+\.jpg: can't be read as an image"):
        made.run()
    assert (tmp_path / "run" / LAST).is_file()


def test_a_loss_that_is_not_finite_ends_the_training_before_the_weights_are_spoilt(
    folder: Path, tmp_path: Path
) -> None:
    made = training(folder, tmp_path)
    forward: Callable[..., Any] = made.model.forward
    made.model.forward = lambda *given: {n: v * float("nan") for n, v in forward(*given).items()}
    with pytest.raises(TrainingError, match="step 0: the loss is nan"):
        made.run()
    assert all(t.isfinite().all() for t in weights(tmp_path / LAST).values())


def test_autocast_trains(tmp_path: Path) -> None:
    # At 64 px P6 has one cell. For a 3x3 convolution with stride 2 on one cell torch 2.14 leaves parts of the weight's
    # gradient unwritten in bfloat16 on processors with AVX512_BF16.
    write(tmp_path, "coco", train=8, val=3, side=160)
    made = training(tmp_path, tmp_path / "run", replace(SMALL, side=160), epochs=1, autocast="bfloat16")
    assert made.run()
    assert all(t.dtype == torch.float32 for t in made.model.state_dict().values() if t.is_floating_point())


def test_impossible_requests_are_refused_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few for a batch of 9"):
        training(folder, tmp_path, batch_size=9)
    with pytest.raises(DataError, match="expected five positive sizes"):
        training(folder, tmp_path, replace(SMALL, anchors=(8, 16)))
    long = read(f"coco:{folder}", "train")
    long.sizes[0] = (2, 2000)
    with pytest.raises(DataError, match=r"2000x2 pixels are resized to a side of 0\.1, less than one anchor cell"):
        check_sizes(SMALL, long)


def test_backbone_weights_come_from_a_file_and_another_backbones_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = resnet18(), resnet50()
    for name, model in (("right", right), ("wrong", wrong)):
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    common = ["--data", f"coco:{folder}", *OPTIONS, "--epochs", "1", "--batch-size", "8", "--results", str(tmp_path)]
    assert train.main([*common, "--weights", str(tmp_path / "wrong.safetensors")]) == 4
    assert "weights of another backbone" in capsys.readouterr().out
    assert train.main([*common, "--weights", str(tmp_path / "right.safetensors"), "--trainable", "0"]) == 0
    capsys.readouterr()
    kept = weights(next(tmp_path.rglob(LAST)))
    assert torch.equal(kept["model.backbone.stem.0.weight"], right.conv1.weight)


def measured(file: Path, quantity: str) -> list[MeasurementRecord]:
    return [r for r in read_records(file) if isinstance(r, MeasurementRecord) and r.quantity == quantity]


def test_the_command_records_both_implementations_and_resumes_a_finished_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data", f"coco:{folder}", *OPTIONS, "--epochs", "1", "--batch-size", "4", "--implementation", "all"]
    assert train.main([*common, "--results", str(tmp_path)]) == 0
    file = next(tmp_path.rglob("records.jsonl"))
    rows = measured(file, "average_precision")
    assert [(r.subject, r.role) for r in rows] == [("ours", "subject"), ("torchvision.models.detection", "reference")]
    overlaps = measured(file, "anchor_overlap")
    assert overlaps
    assert all(0 < v <= 1 for r in overlaps for v in r.samples)
    assert len(list((file.parent / "pictures").glob("*.jpg"))) == 2 * min(4, len(list(folder.glob("val2017/*"))))
    assert len({r.comparison for r in rows}) == 1
    assert train.main([*common, "--resume", str(file.parent)]) == 0
    assert len(measured(file, "average_precision")) == 2
    assert measured(file, "anchor_overlap") == overlaps
    assert train.main([*common, "--resume", str(file.parent), "--seed", "3"]) == 4
    assert "saved with seed 0; asked for 3" in capsys.readouterr().out
    assert train.main([*common, "--data", "coco:nowhere"]) == 4


def test_both_implementations_start_alike_draw_alike_and_stay_alike(folder: Path, tmp_path: Path) -> None:
    """From the same weights, with the same anchors and proposals sampled, three float32 steps on the same images move
    them alike: each step rounds a parameter by some 1e-7, and passes on what was rounded before."""
    ours = training(folder, tmp_path)
    theirs = training(folder, tmp_path, network=replace(SMALL, implementation="torchvision"))
    for batch, same in zip(ours._batches(), theirs._batches(), strict=True):
        ours._one(*batch)
        theirs._one(*same)
    assert ours.step == theirs.step >= 3
    for name, tensor in state_as_assembled(ours.model.state_dict()).items():
        torch.testing.assert_close(theirs.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


class Together(Processes):
    """Says that it is one of several, and talks to none."""

    def wrapped(self, model: nn.Module) -> nn.Module:
        return model


class PerProcess(Trainer):
    """Scales the rate with the images of this process alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.schedule = replace(self.schedule, batch=self.settings.batch_size)


def rates_follow_all_processes(kind: type[Trainer], data: Path, folder: Path) -> None:
    """Two processes with 2 images each take steps at the rate of one process with 4, twice that of one with 2."""
    plain = training(data, folder)

    def rate(batch: int, processes: int) -> float:
        together = Together(device=torch.device("cpu"), size=processes)
        made = {f.name: getattr(plain, f.name) for f in fields(plain) if f.name in ("network", "train", "validation")}
        settings = replace(plain.settings, batch_size=batch)
        return kind(**made, settings=settings, processes=together, folder=folder).schedule.rate(0)

    assert rate(2, 2) == pytest.approx(rate(4, 1)), "the rate is not scaled with the number of processes"
    assert rate(2, 2) == pytest.approx(2 * rate(2, 1)), "the rate does not grow with the images of a step"


def test_the_rate_follows_the_images_of_all_processes(folder: Path, tmp_path: Path) -> None:
    rates_follow_all_processes(Trainer, folder, tmp_path)
    with pytest.raises(AssertionError, match="not scaled with the number of processes"):
        rates_follow_all_processes(PerProcess, folder, tmp_path)
