"""``python -m suites.transfer``: fine-tune a network with one recipe or all of them, and record accuracy against time.

By default EfficientNet-Lite0 with its ImageNet weights on scikit-learn's digits. Exit code 4 where the request or the
data makes no sense, 130 after an interruption, which ``--resume RUN`` goes on from.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from harness.errors import StoreError
from harness.measure.memory import MeterError, meter_for
from harness.process.hardware import SEEDS, device_named
from harness.records.environment import environment
from harness.records.run_store import RunStore, new_run_id
from harness.records.schema import MeasurementRecord
from reference.weights.checkpoint_files import load_weights, read_weights
from reference.weights.pretrained import WeightsUnavailableError, load_lite0
from suites.training.progress import print_epoch, progress_bar
from suites.transfer.architectures import FAMILY
from suites.transfer.data import Data, DataError, load
from suites.transfer.recipe import FineTuning, replace_head
from suites.transfer.trainer import LAST, Epoch, Trainer

LITE0 = "efficientnet_lite0"
INTERRUPTED, NONSENSE = 130, 4
RECIPES = {name: recipe.name for recipe in FAMILY.architectures for name in recipe.names}


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, record."""
    given = _parser().parse_args(arguments)
    console = Console()
    try:
        _check(given)
        names = list(dict.fromkeys(RECIPES.values())) if given.recipe == "all" else [RECIPES[given.recipe]]
        data = load(given.data, given.side, skip_corrupt=given.skip_corrupt, augment=given.augment)
        for notice in data.notices:
            console.print(notice, markup=False, soft_wrap=True)
        store = RunStore(Path(given.results), new_run_id())
        facts = environment(sys.argv, given.device)
        store.environment(facts)
        try:
            finished = all(_train(name, data, store, given, console) for name in names)
            if finished:
                store.environment({**facts, "finished": datetime.now(UTC).isoformat(timespec="seconds")})
        finally:
            store.close()
    except (ValueError, StoreError, WeightsUnavailableError, KeyboardInterrupt) as error:
        console.print(str(error) or "interrupted", markup=False, soft_wrap=True)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else NONSENSE
    console.print(f"records: {store.folder / 'records.jsonl'}", markup=False, soft_wrap=True)
    if not finished:
        console.print(f"interrupted; go on with --resume {store.folder}", markup=False, soft_wrap=True)
        return INTERRUPTED
    console.print(f"report:  python -m reports {store.folder}", markup=False, soft_wrap=True)
    return 0


def _check(given: argparse.Namespace) -> None:
    """Raise ValueError, in one line, for numbers and devices that make no sense."""
    for name, least in (("batch_size", 1), ("side", 1), ("epochs", 1), ("patience", 0)):
        if getattr(given, name) < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} {getattr(given, name)}: expected a whole number of at least {least}")
    if not 0 <= given.seed < SEEDS:
        raise ValueError(f"--seed {given.seed}: expected a whole number from 0 to {SEEDS - 1:,}")
    given.device = device_named(given.device)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.transfer", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--recipe", choices=(*RECIPES, "all"), default="all", help="which recipe (default all, one after the other)")
    add("--data", default="digits", metavar="digits|imagefolder:DIR", help="DIR has train/ and val/ (default digits)")
    add("--model", default=LITE0, metavar="MODULE:FACTORY", help="network to start from (default EfficientNet-Lite0)")
    add("--weights", metavar="FILE", help="its weights: a safetensors file, or one of plain tensors")
    add("--head", default="classifier", metavar="NAME", help="name of its head, which is replaced (default classifier)")
    add("--keep-head", action="store_true", help="train the head that is there")
    add("--epochs", type=int, default=3, metavar="N", help="passes over the training images (default 3)")
    add("--batch-size", type=int, default=32, metavar="N", help="images in a step (default 32)")
    add("--side", type=int, default=48, metavar="PIXELS", help="side of the images (default 48)")
    add("--lr", type=float, default=1e-3, help="learning rate of the head (default 1e-3)")
    add("--backbone-lr", type=float, help="of the backbone, where the recipe has two (default a tenth of --lr)")
    add("--decay", type=float, help="from each layer to the one before it, where the recipe has it")
    add("--weight-decay", type=float, default=0.01, help="of matrices and filters (default 0.01)")
    add("--schedule", choices=("constant", "cosine"), default="constant", help="of all rates (default constant)")
    add("--patience", type=int, default=0, metavar="N", help="end after N epochs without a better accuracy")
    add("--cached", action="store_true", help="compute features once (feature_extraction only)")
    add("--augment", action="store_true", help="random crops and flips of a folder's training images")
    add("--skip-corrupt", action="store_true", help="leave out files that can't be read")
    add("--resume", metavar="RUN", type=Path, help="go on from the checkpoints of an earlier run's folder")
    add("--results", default="results", metavar="DIR", help="folder of runs (default results)")
    add("--device", default="cpu", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default cpu)")
    add("--seed", type=int, default=0, metavar="N", help="of the head's weights and the order of images (default 0)")
    return parser


def _network(given: argparse.Namespace, data: Data) -> nn.Module:
    module, _, factory = given.model.partition(":")
    if given.model == LITE0:
        module, factory = "suites.efficientnet.model", LITE0
    try:
        build: Callable[[], nn.Module] = getattr(import_module(module), factory)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise DataError(f"--model {given.model}: {error}; give it as importable.module:factory") from error
    torch.manual_seed(given.seed)
    try:
        model = build()
    except TypeError as error:
        raise DataError(f"--model {given.model}: can't be called without arguments: {error}") from error
    if not isinstance(model, nn.Module):
        raise DataError(f"--model {given.model}: gives {type(model).__name__}; expected a torch.nn.Module")
    if given.weights:
        try:
            load_weights(model, read_weights(given.weights))
        except FileNotFoundError as error:
            raise DataError(f"--weights {error}") from error
    elif given.model == LITE0:
        load_lite0(model)
    if not given.keep_head:
        replace_head(model, given.head, len(data.classes))
    return model.to(given.device)


def _tuning(name: str, data: Data, given: argparse.Namespace) -> FineTuning:
    """The recipe on a new network, with those of the options that it takes."""
    recipe = getattr(import_module(FAMILY.model), name)
    wanted = {n: getattr(given, n) for n in ("lr", "backbone_lr", "decay", "weight_decay")}
    takes = inspect.signature(recipe).parameters
    keywords: dict[str, Any] = {n: v for n, v in wanted.items() if v is not None and n in takes}
    if given.schedule == "cosine":
        count = len(data.train)  # type: ignore[arg-type]
        steps = given.epochs * max(1, count // max(1, given.batch_size))
        keywords["scheduler"] = partial(CosineAnnealingLR, T_max=steps)
    made = recipe(_network(given, data), given.head, **keywords)
    assert isinstance(made, FineTuning)
    return made


def _peak_memory(name: str, data: Data, given: argparse.Namespace) -> float | None:
    """Bytes that one step of the first phase allocates beyond what was there, on a network of its own."""
    tuning = _tuning(name, data, given)
    images, labels = next(iter(DataLoader(data.train, given.batch_size)))
    images, labels = images.to(given.device), labels.to(given.device)
    tuning.model.train()

    def step() -> None:
        tuning.optimizer.zero_grad()
        cross_entropy(tuning.model(images), labels).backward()
        tuning.optimizer.step()

    step()
    try:
        return float(meter_for(torch.device(given.device)).peak(step).allocated)
    except MeterError:
        return None


def _train(name: str, data: Data, store: RunStore, given: argparse.Namespace, console: Console) -> bool:
    """One recipe from start to end; False where it was interrupted."""
    cached = given.cached and name == "feature_extraction"
    if given.cached and not cached and given.recipe != "all":
        raise DataError(f"--cached: {name} changes its features; only feature_extraction can keep them")
    memory = None if cached else _peak_memory(name, data, given)
    label = name + (" (cached)" if cached else "")

    def record(epoch: Epoch) -> None:
        store.append(
            MeasurementRecord(
                run=store.run,
                suite=FAMILY.name,
                architecture=name,
                subject=given.model.rpartition(":")[2],
                comparison=f"{data.name}, {given.epochs} epochs",
                quantity="accuracy",
                samples=(epoch.accuracy,),
                mode="train",
                device=given.device,
                batch_size=given.batch_size,
                input_size=given.side,
                details={
                    "recipe": label,
                    "epoch": epoch.epoch,
                    "step": epoch.step,
                    "phase": epoch.phase,
                    "seconds": epoch.seconds,
                    "step_seconds": epoch.step_seconds,
                    "loss": epoch.loss,
                    "peak_memory": memory,
                },
            )
        )

    fit = Trainer(
        tuning=_tuning(name, data, given),
        data=data,
        folder=store.folder / name,
        epochs=given.epochs,
        batch_size=given.batch_size,
        patience=given.patience,
        seed=given.seed,
        cached=cached,
    )
    earlier = given.resume / name / LAST if given.resume else None
    if earlier is not None and (earlier.is_file() or given.recipe != "all"):
        fit.resume(earlier)
        for epoch in fit.history:
            record(epoch)

    def close(epoch: Epoch) -> None:
        record(epoch)
        print_epoch(
            console,
            f"{label}: epoch {epoch.epoch}, step {epoch.step}, phase {epoch.phase}: loss {epoch.loss:.3f}, "
            f"accuracy {epoch.accuracy:.1%}, {epoch.seconds:.1f} s",
        )

    fit.on_epoch = close
    with progress_bar(label, console, done=fit.step, steps=fit.steps) as on_step:
        fit.on_step = on_step
        return fit.run()


if __name__ == "__main__":
    sys.exit(main())
