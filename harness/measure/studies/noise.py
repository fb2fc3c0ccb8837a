"""How far the measurement can be trusted: ``make noise``, or ``python -m harness.measure.studies.noise``.

The same work against itself, and against itself made slower or hungrier by a known amount, many times over; beside it
pytest-benchmark timing the same work back to back. All figures are printed and kept as ``noise.json`` in the folder of
a run, those that miss what was promised too; the exit code is 1 where one does.

pytest-benchmark as most people use it: the same work, timed twice, one after the other.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.bench.bench import seeded
from harness.measure.clock import CpuClock, Step, undisturbed
from harness.measure.disturbance import CpuWatch
from harness.measure.memory import CpuMeter
from harness.measure.rounds import MOST_ROUNDS, Rounds, Stopping
from harness.measure.studies.overhead import measure_overhead, product
from harness.measure.workload import CLASSES, Inference, random_batch
from harness.process.memory_reuse import with_room
from harness.process.runner import PYTEST, end_of, run_process
from harness.records.environment import environment
from harness.records.run_store import RunStore, new_run_id
from harness.records.schema import MeasurementRecord
from harness.statistics.ratios import clean, noise_floor, paired_ratio, verdict
from harness.subjects.loading import family_of, own_subjects

FAMILY, ARCHITECTURE, BATCH = "resnet", "resnet18", 1
INJECTED_BYTES = 5_000_000
FAR = 0.02
"""A comparison of equal work that is off by more is counted as a miss."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One comparison of a subject, its replicate and a reference."""

    ratio: float
    low: float
    high: float
    floor: float | None
    """None where too few rounds give none."""
    verdict: str
    rounds: int
    disturbed: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What was promised and what was found."""

    what: str
    promised: str
    found: str
    held: bool


def instance(image_size: int | None = None) -> Inference:
    """The work: our own model, in eval mode on a single image."""
    (subject,) = own_subjects(family_of(FAMILY), (ARCHITECTURE,))
    with seeded(0):
        model = subject.build(num_classes=CLASSES)
    return Inference(model, random_batch(BATCH, image_size or subject.architecture.input_size))


def slowed(step: Step, part: float) -> Step:
    """``step``, and then idle turns for ``part`` of the time that it took."""

    def slow() -> None:
        start = time.perf_counter()
        step()
        end = time.perf_counter()
        until = end + part * (end - start)
        while time.perf_counter() < until:
            pass

    return slow


def compare(subject: Step, again: Step, reference: Step, seconds: float, seed: int) -> Trial:
    """One interleaved comparison as a benchmark makes it, ended by its time alone."""
    rounds = Rounds({"subject": subject, "again": again, "reference": reference}, CpuClock(), seed=seed)
    with undisturbed():
        rounds.warm_up(seconds / 4)
        rounds.plan(MOST_ROUNDS)
        watch, stopping = CpuWatch(), Stopping(precision=0.0, budget=seconds)
        stopping.start()
        while not (rounds.done and stopping.enough(rounds.samples, watch.disturbed)):
            rounds.before()
            rounds.lead()
            rounds.after()
            watch.look(rounds.done)
    ours, twin, theirs = (clean(rounds.samples[n], watch.disturbed) for n in ("subject", "again", "reference"))
    estimate, floor = paired_ratio(ours, theirs, twin), noise_floor(ours, twin)
    return Trial(
        ratio=estimate.ratio,
        low=estimate.low,
        high=estimate.high,
        floor=floor if math.isfinite(floor) else None,
        verdict=verdict(estimate, floor),
        rounds=rounds.done,
        disturbed=len(watch.disturbed),
    )


def trials(
    build: Callable[[], Step], slower: float, number: int, seconds: float, say: Callable[[str], None]
) -> list[Trial]:
    """``number`` comparisons, each of new instances, in which the subject is slower by that part."""
    found = []
    for index in range(number):
        subject, again, reference = (build() for _ in range(3))
        if slower:
            subject, again = slowed(subject, slower), slowed(again, slower)
        found.append(compare(subject, again, reference, seconds, seed=index))
        last = found[-1]
        say(
            f"{slower:+.0%} {index + 1:3}/{number}: ratio {last.ratio:.4f} ({last.low:.4f} to {last.high:.4f}), "
            f"floor {last.floor or math.inf:.4f}, {last.verdict}, {last.rounds} rounds, {last.disturbed} disturbed"
        )
    return found


def timer_ratio(step: Step, rounds: int) -> float:
    """Our median over that of `torch.utils.benchmark.Timer`, taking turns on the same work."""
    from torch.utils.benchmark import Timer

    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    clock, ours, theirs = CpuClock(), [], []
    with undisturbed():
        for index in range(rounds):
            for turn in (0, 1) if index % 2 else (1, 0):
                if turn:
                    ours.append(clock.latency(step))
                else:
                    theirs.append(timer.timeit(1).median)
    return statistics.median(ours) / statistics.median(theirs)


def seen_bytes(work: Inference) -> int:
    """How much more peak memory is seen when a step holds 5 MB more from start to end."""

    def hungry() -> None:
        extra = torch.empty(INJECTED_BYTES, dtype=torch.uint8)
        work()
        del extra

    meter = CpuMeter()
    work()
    return meter.peak(hungry).allocated - meter.peak(work).allocated


def study(number: int, seconds: float, image_size: int | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything; the claims are judged by the share that the full study of 30 comparisons promises."""
    work = instance(image_size)
    work()
    same, three, ten = (trials(lambda: instance(image_size), part, number, seconds, say) for part in (0.0, 0.03, 0.10))
    pairs = back_to_back(number, seconds / 2, image_size)
    say(f"pytest-benchmark back to back: {', '.join(f'{p:.4f}' for p in pairs)}")
    timed = timer_ratio(work, max(100, number))
    seen = seen_bytes(work)
    overhead = measure_overhead(product(), max(20, 2 * number))
    least, most = math.ceil(number * 27 / 30), number // 30 if number >= 30 else 0
    far, far_pairs = (sum(abs(r - 1) > FAR for r in ratios) for ratios in ([t.ratio for t in same], pairs))
    covered = sum(t.low <= 1 <= t.high for t in same)
    found_three, found_ten = (sum(t.verdict == "slower" for t in group) for group in (three, ten))
    claims = [
        Claim(what=f"equal work off by over {FAR:.0%}", promised=f"<= {most}", found=str(far), held=far <= most),
        Claim(what="intervals that hold 1", promised=f">= {least}", found=str(covered), held=covered >= least),
        Claim(what="3 % slower, found", promised=f">= {least}", found=str(found_three), held=found_three >= least),
        Claim(what="10 % slower, found", promised=f"{number}", found=str(found_ten), held=found_ten == number),
        Claim(
            what="5 MB more, as seen",
            promised="within 1 %",
            found=f"{seen:,} byte",
            held=abs(seen / INJECTED_BYTES - 1) <= 0.01,
        ),
        Claim(
            what="median over torch.utils.benchmark.Timer's",
            promised="within 1 %",
            found=f"{timed:.4f}",
            held=abs(timed - 1) <= 0.01,
        ),
        Claim(
            what="cost of the loop between steps of 5 ms",
            promised="under 1 %",
            found=f"{overhead.between / 5e-3:.2%}",
            held=overhead.between < 0.01 * 5e-3,
        ),
    ]
    return {
        "work": f"{ARCHITECTURE} inference, batch {BATCH}, {work.batch.images.shape[-1]} px",
        "comparisons": number,
        "seconds_each": seconds,
        "threads": torch.get_num_threads(),
        "same": [asdict(t) for t in same],
        "slower_by_3_percent": [asdict(t) for t in three],
        "slower_by_10_percent": [asdict(t) for t in ten],
        "loop_overhead": max(0.0, overhead.between),
        "back_to_back": {"ratios": pairs, "off_by_over_2_percent": far_pairs},
        "claims": [asdict(c) for c in claims],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study, print and keep it; 1 where a promise was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.measure.studies.noise", description="How far measurements can be trusted here."
    )
    parser.add_argument("--comparisons", type=int, default=30, metavar="N", help="of each kind (default 30)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each comparison (default 6)")
    parser.add_argument("--input-size", type=int, metavar="PIXELS", help="side of the image (default 224)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    given = parser.parse_args(arguments)
    if given.comparisons < 1 or not 0 < given.seconds < math.inf or (given.input_size or 1) < 1:
        parser.error("--comparisons, --seconds and --input-size: expected positive numbers")
    store = RunStore(given.results, new_run_id())
    facts = environment(sys.argv, "cpu")
    store.environment(facts)
    found = with_room(study, given.comparisons, given.seconds, given.input_size, lambda line: print(line, flush=True))
    store.append(
        MeasurementRecord(
            run=store.run,
            suite="machine",
            architecture="loop",
            subject="cpu",
            role="machine",
            comparison="machine",
            quantity="loop_overhead",
            samples=(found["loop_overhead"],),
        )
    )
    (store.folder / "noise.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    store.environment({**facts, "finished": environment(sys.argv, "cpu")["started"]})
    store.close()
    for claim in found["claims"]:
        print(f"{'held  ' if claim['held'] else 'MISSED'} {claim['what']}: {claim['found']} ({claim['promised']})")
    pairs = found["back_to_back"]
    print(f"beside it, back to back: {pairs['off_by_over_2_percent']} of {len(pairs['ratios'])} off by over {FAR:.0%}")
    print(f"noise: {store.folder / 'noise.json'}")
    return int(not all(claim["held"] for claim in found["claims"]))


if __name__ == "__main__":
    raise SystemExit(main())


TESTS = """
import pytest
import torch
from harness.measure.studies.noise import instance

torch.set_num_threads({threads})
WORK = instance({image_size!r})


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("pair", range({pairs}))
def test_same(benchmark, pair, half):
    benchmark(WORK)
"""


def back_to_back(pairs: int, seconds: float, image_size: int | None) -> list[float]:
    """Ratio of the medians of two measurements of the same work, ``pairs`` times, each of about ``seconds``."""
    root = Path(__file__).parents[3]
    with tempfile.TemporaryDirectory() as folder:
        tests, found = Path(folder, "test_pairs.py"), Path(folder, "found.json")
        tests.write_text(TESTS.format(pairs=pairs, threads=torch.get_num_threads(), image_size=image_size))
        command = [*PYTEST, str(tests), "-q", "-p", "no:cacheprovider", f"--rootdir={folder}"]
        options = ["-c", "/dev/null", f"--benchmark-max-time={seconds}", f"--benchmark-json={found}"]
        ended = end_of(
            run_process([*command, *options], directory=root, environment={"PYTHONPATH": str(root)}, codes=(0,))
        )
        if ended.reason:
            raise RuntimeError(f"pytest-benchmark: {ended.reason}")
        medians = {b["name"]: b["stats"]["median"] for b in json.loads(found.read_text())["benchmarks"]}
    return [medians[f"test_same[{p}-0]"] / medians[f"test_same[{p}-1]"] for p in range(pairs)]
