"""The training loop: epochs, accuracy, early stop, checkpoints, and an interruption that loses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Subset

from suites.training.checkpoint import Checkpoint, CheckpointError, load, save
from suites.training.interruption import Interruption
from suites.transfer.data import Data, DataError, check_labels
from suites.transfer.feature_cache import cache_features
from suites.transfer.layer_groups import find_module
from suites.transfer.recipe import FineTuning

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch came to. ``seconds`` are of training, from the start on, without validation; ``step_seconds`` is
    the median of its steps."""

    epoch: int
    step: int
    phase: int
    seconds: float
    step_seconds: float
    loss: float
    accuracy: float


@dataclass(kw_only=True)
class Trainer:
    """One training: ``run`` goes through the epochs, ``resume`` picks up a checkpoint.

    The phases of a recipe follow each other evenly; the last one begins half way. ``patience`` epochs without a better
    accuracy end the training, once the last phase is reached; 0 never does. With ``cached`` the backbone's features are
    computed once.
    """

    tuning: FineTuning
    data: Data
    folder: Path
    epochs: int
    batch_size: int = 32
    patience: int = 0
    seed: int = 0
    cached: bool = False
    on_step: Callable[[int, int, float], None] = lambda done, all_, loss: None
    on_epoch: Callable[[Epoch], None] = lambda epoch: None
    history: list[Epoch] = field(default_factory=list)
    seconds: float = 0.0
    step: int = 0
    _losses: list[float] = field(default_factory=list)
    _times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._train: Dataset[Any] = self.data.train
        self._validation: Dataset[Any] = self.data.validation
        self._forward: nn.Module = self.tuning.model
        self._device = next(self.tuning.model.parameters()).device
        count = len(self.data.train)  # type: ignore[arg-type]
        self.per_epoch = max(1, count // self.batch_size)
        self.steps = self.epochs * self.per_epoch
        if self.epochs < 1 or self.batch_size < 1:
            raise DataError(f"epochs={self.epochs}, batch_size={self.batch_size}: both must be at least 1")
        if count < self.batch_size:
            raise DataError(f"{self.data.name} has {count} training images: too few for a batch of {self.batch_size}")
        width = _classes(self.tuning.model, self.data, self._device)
        if width != len(self.data.classes):
            raise DataError(
                f"the network has {width} classes and {self.data.name} has {len(self.data.classes)}: replace the head"
            )

    def run(self) -> bool:
        """Train to the end; False where a signal ended it before, after saving: `resume` goes on there."""
        if self.cached:
            start = time.perf_counter()
            self._train = cache_features(self.tuning, self.data.train)
            self._validation = cache_features(self.tuning, self.data.validation)
            self._forward = find_module(self.tuning.model, self.tuning.head)
            self.seconds += time.perf_counter() - start
        with Interruption() as interruption:
            while self.step < self.steps and not self._worn_out():
                for images, labels in self._batches():
                    self._one(images, labels)
                    if interruption.requested:
                        break
                if self.step % self.per_epoch == 0:
                    self._close_epoch()
                else:
                    self.save()
                if interruption.requested:
                    return False
        return True

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of the present epoch, in an order that depends on the seed and the epoch only."""
        epoch, done = divmod(self.step, self.per_epoch)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        count = len(self._train)  # type: ignore[arg-type]
        order = torch.randperm(count, generator=generator).tolist()
        kept = order[done * self.batch_size : self.per_epoch * self.batch_size]
        # A loader draws a seed for its workers: from its own generator, or a resumed run would see other dropout.
        yield from DataLoader(Subset(self._train, kept), self.batch_size, generator=generator)

    def _one(self, images: Tensor, labels: Tensor) -> None:
        start = time.perf_counter()
        last = len(self.tuning.phases) - 1
        wanted = min(last, 2 * self.step * last // self.steps)
        while self.tuning.phase < wanted:
            self.tuning.advance()
        self.tuning.model.train()
        self.tuning.optimizer.zero_grad()
        logits = self._forward(images.to(self._device))
        labels = labels.to(self._device)
        check_labels(labels, logits)
        loss = cross_entropy(logits, labels)
        loss.backward()
        self.tuning.optimizer.step()
        if self.tuning.scheduler is not None:
            self.tuning.scheduler.step()
        self._losses.append(float(loss.detach()))
        self._times.append(time.perf_counter() - start)
        self.seconds += self._times[-1]
        self.step += 1
        self.on_step(self.step, self.steps, self._losses[-1])

    def _close_epoch(self) -> None:
        accuracy = self.accuracy()
        better = not self.history or accuracy > max(e.accuracy for e in self.history)
        self.history.append(
            Epoch(
                epoch=len(self.history) + 1,
                step=self.step,
                phase=self.tuning.phase,
                seconds=self.seconds,
                step_seconds=sorted(self._times)[len(self._times) // 2],
                loss=sum(self._losses) / len(self._losses),
                accuracy=accuracy,
            )
        )
        self._losses, self._times = [], []
        self.save()
        if better:
            self.save(BEST)
        self.on_epoch(self.history[-1])

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of the validation images whose class has the largest logit, in eval mode."""
        self.tuning.model.eval()
        right = total = 0
        for images, labels in DataLoader(self._validation, self.batch_size, generator=torch.Generator()):
            right += int((self._forward(images.to(self._device)).argmax(1).cpu() == labels).sum())
            total += len(labels)
        return right / total

    def _worn_out(self) -> bool:
        if not self.patience or self.tuning.phase + 1 < len(self.tuning.phases) or len(self.history) <= self.patience:
            return False
        best = max(range(len(self.history)), key=lambda n: self.history[n].accuracy)
        return len(self.history) - 1 - best >= self.patience

    def _facts(self) -> dict[str, Any]:
        return {
            "data": self.data.name,
            "classes": list(self.data.classes),
            "head": self.tuning.head,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "epochs": self.epochs,
            "cached": self.cached,
        }

    def save(self, name: str = LAST) -> Path:
        """Write the whole state to ``name`` in the folder."""
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "losses": self._losses,
            "times": self._times,
            "history": [asdict(e) for e in self.history],
        }
        path = self.folder / name
        save(
            path,
            Checkpoint(
                model=self.tuning.model.state_dict(),
                tuning=self.tuning.state_dict(),
                generator=torch.get_rng_state(),
                facts={**self._facts(), **progress},
            ),
        )
        return path

    def resume(self, path: Path) -> None:
        """Go on where ``path`` was saved. Raises CheckpointError where it is of another recipe, data set or setting."""
        checkpoint = load(path)
        recipe = checkpoint.tuning["recipe"]
        if recipe != self.tuning.recipe:
            raise CheckpointError(f"{path}: a checkpoint of {recipe}, not of {self.tuning.recipe}")
        for name, value in self._facts().items():
            if checkpoint.facts[name] != value:
                raise CheckpointError(f"{path}: saved with {name} {checkpoint.facts[name]}; asked for {value}")
        own = self.tuning.model.state_dict()
        odd = [n for n in own if n not in checkpoint.model or checkpoint.model[n].shape != own[n].shape]
        if odd or len(own) != len(checkpoint.model):
            raise CheckpointError(f"{path}: the weights do not fit this network{f' ({odd[0]})' if odd else ''}")
        self.tuning.model.load_state_dict(dict(checkpoint.model))
        self.tuning.load_state_dict(checkpoint.tuning)
        torch.set_rng_state(checkpoint.generator)
        self.step, self.seconds = checkpoint.facts["step"], checkpoint.facts["seconds"]
        self._losses, self._times = list(checkpoint.facts["losses"]), list(checkpoint.facts["times"])
        self.history = [Epoch(**e) for e in checkpoint.facts["history"]]


@torch.no_grad()
def _classes(model: nn.Module, data: Data, device: torch.device) -> int:
    """How many logits the network gives for an image of the data."""
    training = model.training
    image, _ = data.validation[0]
    count = int(model.eval()(image[None].to(device)).shape[1])
    model.train(training)
    return count
