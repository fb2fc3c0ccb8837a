"""The training loop: any number of processes, exact after a resume, and an interruption that loses nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from suites.detector.coco_metrics import average_precision, detections
from suites.detector.config import DetectorConfig, build, check_sizes, seed_images, take_weights
from suites.detector.data.annotations import DataError
from suites.detector.data.dataset import Augmented, DetectionImages, Target, collate, mixed
from suites.detector.distributed import Processes
from suites.detector.lr_schedule import Schedule
from suites.training.checkpoint import Checkpoint, CheckpointError, load, save
from suites.training.interruption import Interruption

LAST, BEST = "last.safetensors", "best.safetensors"
DTYPES = {"none": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
GO_ON, STOP, FAULT = 0, 1, 2
Batch = tuple[list[Tensor], list[Target]]


class TrainingError(RuntimeError):
    """The training can't go on; what was trained is saved, and the message says where and why."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch came to. ``seconds`` are of steps, from the start on; ``figures`` are COCO's twelve."""

    epoch: int
    step: int
    seconds: float
    loss: float
    figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What, beside network and data, decides how a training goes. ``batch_size`` is of each process."""

    epochs: int
    batch_size: int
    rate: float
    warmup: int = 0
    drops: tuple[int, ...] = ()
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip: float = 10.0
    autocast: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.clip < math.inf:
            raise DataError(f"epochs={self.epochs}, batch_size={self.batch_size}, clip={self.clip}: expected positive")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise DataError(
                f"momentum={self.momentum}, weight_decay={self.weight_decay}: expected a momentum "
                "from 0 to below 1, and a decay of 0 or more"
            )


@dataclass(kw_only=True)
class Trainer:
    """``run`` goes through the epochs; ``resume`` picks up a checkpoint first.

    All random draws depend on the seed, the epoch and the image, never on the process or the worker, so that several
    processes do what one does with a batch as large as theirs together (statistics of BatchNorm aside, on CPUs).
    """

    network: DetectorConfig
    settings: Settings
    train: DetectionImages
    validation: DetectionImages
    processes: Processes
    folder: Path
    weights: str = ""
    workers: int = 0
    on_step: Callable[[int, int, float], None] = lambda done, all_, loss: None
    on_epoch: Callable[[Epoch], None] = lambda epoch: None
    history: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        s, count = self.settings, len(self.train)
        self.batch = s.batch_size * self.processes.size
        if count < self.batch:
            raise DataError(f"{self.train.annotations.name} has {count} images: too few for a batch of {self.batch}")
        for images in (self.train, self.validation):
            check_sizes(self.network, images.annotations)
            if images.annotations.crowd.all():
                raise DataError(f"{images.annotations.name}: there is no box to find in it")
        self.per_epoch = count // self.batch
        self.steps = s.epochs * self.per_epoch
        self.schedule = Schedule(
            base=s.rate, batch=self.batch, warmup=s.warmup, drops=tuple(d * self.per_epoch for d in s.drops)
        )
        self.model = build(self.network, s.seed)
        if self.weights:
            take_weights(self.model, self.network, self.weights)
        self.model.to(self.processes.device)
        self._wrapped = self.processes.wrapped(self.model)
        self._learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self._learning, self.schedule.rate(0), momentum=s.momentum, weight_decay=s.weight_decay
        )
        self._scaler = torch.amp.GradScaler(self.processes.device.type, enabled=s.autocast == "float16")
        self.step, self.seconds, self._loss = 0, 0.0, 0.0

    def run(self) -> bool:
        """Train to the end; False where a signal ended it before, after saving. Raises TrainingError and DataError."""
        with Interruption() as interruption:
            while len(self.history) < self.settings.epochs:
                batches = self._batches()
                while True:
                    batch, fault = _next(batches)
                    state = FAULT if fault else STOP if interruption.requested else GO_ON
                    state = self.processes.highest(state)
                    if state != GO_ON:
                        where = self.save()
                        if state == STOP:
                            return False
                        raise fault or TrainingError(f"another process failed at step {self.step}; saved to {where}")
                    if batch is None:
                        break
                    self._one(*batch)
                self._close_epoch()
        return True

    def _batches(self) -> Iterator[Batch]:
        """This process's part of what is left of the present epoch."""
        epoch = len(self.history)
        done = self.step - epoch * self.per_epoch
        generator = torch.Generator().manual_seed(mixed(self.settings.seed, epoch))
        order = torch.randperm(len(self.train), generator=generator).tolist()
        starts = (n * self.batch + self.processes.rank * self.settings.batch_size for n in range(self.per_epoch))
        mine = [order[start : start + self.settings.batch_size] for start in starts]
        images = Augmented(self.train, self.settings.seed, epoch)
        yield from DataLoader(
            images, batch_sampler=mine[done:], num_workers=self.workers, collate_fn=collate, generator=generator
        )

    def _one(self, images: list[Tensor], targets: list[Target]) -> None:
        start = time.perf_counter()
        device = self.processes.device
        seed_images(self.model, [mixed(self.settings.seed, self.step, int(t["image_id"])) for t in targets])
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self._wrapped.train()
        self.optimizer.zero_grad()
        dtype = DTYPES[self.settings.autocast]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            losses: dict[str, Tensor] = self._wrapped(
                [image.to(device) for image in images], [{n: v.to(device) for n, v in t.items()} for t in targets]
            )
            loss = torch.stack([value.float() for value in losses.values()]).sum()
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._learning, self.settings.clip)
        # Gradients are averaged over the processes: all see the same norm and come to the same decision.
        if not self._scaler.is_enabled() and not math.isfinite(norm):
            where = self.save()
            raise TrainingError(
                f"step {self.step}: the loss is {float(loss.detach())} and the gradient's norm {float(norm)}; the "
                f"weights before this step are in {where}. A lower --lr or a longer --warmup may help"
            )
        self._scaler.step(self.optimizer)
        self._scaler.update()
        value = self.processes.mean(float(loss.detach()))
        self._loss += value
        self.step += 1
        self.seconds += time.perf_counter() - start
        self.on_step(self.step, self.steps, value)

    def _close_epoch(self) -> None:
        self.save()  # before anything can go wrong with the validation images
        try:
            figures = self.evaluate()
        except (DataError, RuntimeError) as error:
            raise _plain(error) from error
        done = Epoch(
            epoch=len(self.history) + 1,
            step=self.step,
            seconds=self.seconds,
            loss=self._loss / self.per_epoch,
            figures=figures,
        )
        better = all(figures["map"] > e.figures["map"] for e in self.history)
        self.history.append(done)
        self._loss = 0.0
        self.save()
        if better:
            self.save(BEST)
        self.on_epoch(done)

    def evaluate(self) -> dict[str, float]:
        """The twelve figures on the validation images, which the processes share out."""
        mine = range(self.processes.rank, len(self.validation), self.processes.size)
        found = detections(
            self.model,
            self.validation,
            mine,
            device=self.processes.device,
            batch_size=self.settings.batch_size,
            workers=self.workers,
        )
        pairs = self.processes.gathered(found)
        return self.processes.of_first(average_precision(pairs) if self.processes.first else {})

    def _facts(self) -> dict[str, Any]:
        """What must be the same to go on. Processes may be others, as long as their batches add up to the same."""
        settings = {n: v for n, v in asdict(self.settings).items() if n != "batch_size"}
        return {
            **{f"network.{n}": v for n, v in self.network.facts().items()},
            **{n: list(v) if isinstance(v, tuple) else v for n, v in settings.items()},
            "global batch": self.batch,
            "images": len(self.train),
            "categories": [asdict(c) for c in self.train.annotations.categories],
        }

    def save(self, name: str = LAST) -> Path:
        """Write the whole state to ``name`` in the folder, from the first process."""
        path = self.folder / name
        if not self.processes.first:
            return path
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "loss": self._loss,
            "history": [asdict(e) for e in self.history],
        }
        save(
            path,
            Checkpoint(
                model=self.model.state_dict(),
                tuning={"optimizer": self.optimizer.state_dict(), "scaler": self._scaler.state_dict()},
                generator=torch.get_rng_state(),
                facts={"training": self._facts(), "progress": progress},
            ),
        )
        return path

    def resume(self, path: Path) -> None:
        """Go on where ``path`` was saved. Raises CheckpointError where it is of another network, data or setting."""
        if not path.is_file():
            kept = ", ".join(sorted(str(p.parent.name) for p in path.parent.parent.glob(f"*/{path.name}"))) or "none"
            raise CheckpointError(f"{path}: there is no such checkpoint; this run has those of: {kept}")
        checkpoint = load(path)
        for name, value in self._facts().items():
            kept = checkpoint.facts.get("training", {}).get(name)
            if kept != value:
                raise CheckpointError(f"{path}: saved with {name.removeprefix('network.')} {kept}; asked for {value}")
        self.model.load_state_dict(dict(checkpoint.model))
        self.optimizer.load_state_dict(checkpoint.tuning["optimizer"])
        self._scaler.load_state_dict(checkpoint.tuning["scaler"])
        progress = checkpoint.facts["progress"]
        self.step, self.seconds, self._loss = progress["step"], progress["seconds"], progress["loss"]
        self.history = [Epoch(**e) for e in progress["history"]]


def _next(batches: Iterator[Batch]) -> tuple[Batch | None, Exception | None]:
    """The next batch, None at the end; or what went wrong while it was read."""
    try:
        return next(batches, None), None
    except (DataError, RuntimeError) as error:
        return None, _plain(error)


def _plain(error: Exception) -> Exception:
    """What a loader raised, in one line; a worker's error comes with that worker's traceback in its message."""
    lines = str(error).strip().splitlines()
    if isinstance(error, DataError):
        return DataError(lines[-1].rpartition("DataError: ")[2])
    if "DataLoader worker" in lines[0]:
        return TrainingError(f"a process that reads images died ({lines[0]}); go on with --resume")
    return error
