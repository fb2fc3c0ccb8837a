"""``python -m suites.detector.train``: train a detector on COCO or Pascal VOC data, alone or under ``torchrun``.

Exit code 1 where the training failed, 4 where the request or the data makes no sense, 130 after an interruption, which
``--resume RUN`` goes on from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from harness.errors import StoreError
from harness.records.environment import environment
from harness.records.run_store import RunStore, new_run_id
from harness.records.schema import MeasurementRecord
from reference.weights.pretrained import WeightsUnavailableError
from suites.detector.anchor_fit import anchor_coverage
from suites.detector.config import FACTORIES, IMPLEMENTATIONS, DetectorConfig
from suites.detector.data.annotations import Annotations, DataError
from suites.detector.data.dataset import DetectionImages, read, verify
from suites.detector.distributed import Processes, joined
from suites.detector.lr_schedule import REFERENCE_BATCH
from suites.detector.trainer import DTYPES, LAST, Epoch, Settings, Trainer, TrainingError
from suites.detector.visualize import write_pictures
from suites.training.progress import print_epoch, progress_bar

FAILED, NONSENSE, INTERRUPTED = 1, 4, 130
PICTURES = "pictures"
"""Folder in a run's, which its page shows."""
SUBJECTS = {"ours": "ours", "torchvision": "torchvision.models.detection"}


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, record."""
    given = _parser().parse_args(arguments)
    console = Console()
    try:
        with joined(given.device) as processes:
            console.quiet = not processes.first
            given.device = str(processes.device)
            return _run(given, processes, console)
    except TrainingError as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return FAILED
    except (ValueError, FileNotFoundError, StoreError, WeightsUnavailableError) as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return NONSENSE
    except KeyboardInterrupt:
        console.print("interrupted", markup=False)
        return INTERRUPTED


def _run(given: argparse.Namespace, processes: Processes, console: Console) -> int:
    train = read(given.data, "train")
    validation = read(given.data, "val", train.categories)
    _verify((train, validation), processes, console)
    names = IMPLEMENTATIONS if given.implementation == "all" else (given.implementation,)
    # A new run would hide the old one's history: the folder of a resumed training gets the rows of both.
    folder = given.resume or Path(given.results) / processes.of_first(new_run_id())
    if given.resume and not folder.is_dir():
        raise DataError(f"--resume {folder}: there is no such run")

    def prepared(name: str) -> Trainer:
        training = _training(name, train, validation, folder, processes, given)
        last = training.folder / LAST
        if given.resume and (last.is_file() or len(names) == 1):
            training.resume(last)
        return training

    training = prepared(names[0])  # what is refused is refused before anything is written
    store = RunStore(folder.parent, folder.name, resume=given.resume is not None) if processes.first else None
    facts = environment(sys.argv, given.device)
    finished = True
    try:
        if store is not None:
            store.environment(facts)
        for name in names:
            training = training if name == names[0] else prepared(name)
            if store is not None and not given.resume and name == names[0]:
                _record_coverage(store, training, given)
            training.on_epoch = _recorder(name, training, store, given, console)
            with progress_bar(name, console, done=training.step, steps=training.steps) as on_step:
                training.on_step = on_step
                finished = training.run()
            if not finished:
                break
            if store is not None:
                write_pictures(
                    folder / PICTURES, SUBJECTS[name], training.model, training.validation, device=processes.device
                )
        if store is not None and finished:
            store.environment({**facts, "finished": datetime.now(UTC).isoformat(timespec="seconds")})
    finally:
        if store is not None:
            store.close()
    console.print(f"checkpoints: {folder}", markup=False, soft_wrap=True)
    if not finished:
        console.print(f"interrupted; go on with --resume {folder}", markup=False, soft_wrap=True)
        return INTERRUPTED
    console.print(f"report:      python -m reports {folder}", markup=False, soft_wrap=True)
    return 0


def _verify(parts: tuple[Annotations, ...], processes: Processes, console: Console) -> None:
    """In the first process; all of them stop where an image is at fault."""
    fault = ""
    if processes.first:
        try:
            for annotations in parts:
                for notice in annotations.notices:
                    console.print(notice, markup=False, soft_wrap=True)
                verify(annotations)
        except DataError as error:
            fault = str(error)
    fault = processes.of_first(fault)
    if fault:
        raise DataError(fault)


def _training(
    name: str,
    train: Annotations,
    validation: Annotations,
    folder: Path,
    processes: Processes,
    given: argparse.Namespace,
) -> Trainer:
    return Trainer(
        network=DetectorConfig(
            arch=given.arch,
            implementation=name,
            num_classes=train.num_classes,
            side=given.side,
            width=given.width,
            hidden=given.hidden,
            anchors=given.anchors,
            roi_samples=given.roi_samples,
            norm=given.norm or ("frozen" if given.weights else "batch"),
            trainable=given.trainable,
        ),
        settings=Settings(
            epochs=given.epochs,
            batch_size=given.batch_size,
            rate=given.lr,
            warmup=given.warmup,
            drops=given.drops,
            momentum=given.momentum,
            weight_decay=given.weight_decay,
            clip=given.clip,
            autocast=given.autocast,
            seed=given.seed,
        ),
        train=DetectionImages(train, crowds=False),
        validation=DetectionImages(validation),
        processes=processes,
        folder=folder / f"{given.arch}-{name}",
        weights=given.weights or "",
        workers=given.workers,
    )


def _record_coverage(store: RunStore, training: Trainer, given: argparse.Namespace) -> None:
    """How well each level's anchors fit the boxes that are learnt from."""
    levels = anchor_coverage(training.train.annotations, training.network)
    for number, (size, overlaps) in enumerate(zip(given.anchors, levels, strict=True), start=3):
        if len(overlaps):
            store.append(
                MeasurementRecord(
                    run=store.run,
                    suite="detector",
                    architecture=given.arch,
                    subject=f"P{number}",
                    comparison=training.train.annotations.name,
                    quantity="anchor_overlap",
                    samples=tuple(float(v) for v in overlaps),
                    mode="train",
                    input_size=given.side,
                    details={"anchor": size},
                )
            )


def _recorder(
    name: str, training: Trainer, store: RunStore | None, given: argparse.Namespace, console: Console
) -> Callable[[Epoch], None]:
    def record(epoch: Epoch) -> None:
        print_epoch(
            console,
            f"{name}: epoch {epoch.epoch}, step {epoch.step}: loss {epoch.loss:.3f}, "
            f"mAP {epoch.figures['map']:.3f}, mAP@50 {epoch.figures['map_50']:.3f}, {epoch.seconds:.1f} s",
        )
        if store is None:
            return
        store.append(
            MeasurementRecord(
                run=store.run,
                suite="detector",
                architecture=given.arch,
                subject=SUBJECTS[name],
                role="subject" if name == "ours" else "reference",
                comparison=f"{training.train.annotations.name}, {training.steps} steps, seed {given.seed}",
                quantity="average_precision",
                samples=(max(0.0, epoch.figures["map_50"]),),
                mode="train",
                device=given.device,
                dtype="float32" if given.autocast == "none" else given.autocast,
                batch_size=training.batch,
                input_size=given.side,
                details={
                    "epoch": epoch.epoch,
                    "step": epoch.step,
                    "seconds": epoch.seconds,
                    "loss": epoch.loss,
                    "processes": training.processes.size,
                    **epoch.figures,
                },
            )
        )

    return record


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers with commas between them") from None


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers with commas between them") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m suites.detector.train", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--data", required=True, metavar="coco:DIR|voc:DIR", help="a folder laid out as COCO 2017 or Pascal VOC")
    add("--arch", choices=FACTORIES, default="detector_resnet50", help="default detector_resnet50")
    add("--implementation", choices=(*IMPLEMENTATIONS, "all"), default="ours", help="default ours")
    add("--weights", metavar="imagenet|FILE", help="of the backbone: torchvision's, or a file by torchvision's names")
    add("--norm", choices=("batch", "frozen"), help="default frozen with --weights, else batch")
    add(
        "--trainable", type=int, default=5, metavar="N", help="parts of the backbone that learn, from the last (5: all)"
    )
    add("--side", type=int, default=800, metavar="PIXELS", help="shorter side that images are resized to (default 800)")
    add("--width", type=int, default=256, metavar="N", help="channels of the pyramid (default 256)")
    add("--hidden", type=int, default=1024, metavar="N", help="width of the box heads (default 1024)")
    add("--anchors", type=_numbers, default=(32, 64, 128, 256, 512), metavar="A,B,C,D,E", help="sides on P3 to P7")
    add("--roi-samples", type=int, default=512, metavar="N", help="proposals per image in the loss (default 512)")
    add("--epochs", type=int, default=12, metavar="N", help="passes over the training images (default 12)")
    add("--batch-size", type=int, default=2, metavar="N", help="images in a step of each process (default 2)")
    add("--lr", type=float, default=0.02, help=f"for {REFERENCE_BATCH} images a step, scaled linearly (default 0.02)")
    add("--warmup", type=int, default=500, metavar="STEPS", help="steps of linear warm-up (default 500)")
    add("--drops", type=_counts, default=(8, 11), metavar="N,N", help="epochs after which the rate is a tenth")
    add("--momentum", type=float, default=0.9, help="default 0.9")
    add("--weight-decay", type=float, default=1e-4, help="default 1e-4")
    add("--clip", type=float, default=10.0, metavar="NORM", help="largest norm of the gradient (default 10)")
    add("--autocast", choices=DTYPES, default="none", help="compute in half precision where it is safe")
    add("--workers", type=int, default=0, metavar="N", help="processes that read images, for each that trains")
    add("--device", default="cpu", metavar="DEVICE", help="auto, cpu or cuda (default cpu)")
    add("--seed", type=int, default=0, metavar="N", help="of weights, order, flips and sampled boxes (default 0)")
    add("--resume", metavar="RUN", type=Path, help="go on in an earlier run's folder")
    add("--results", default="results", metavar="DIR", help="folder of runs (default results)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
