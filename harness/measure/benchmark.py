"""One benchmark from its contenders to its rows."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from harness.errors import SubjectError
from harness.measure.clock import clock_for, undisturbed
from harness.measure.contenders import Contender, LeftOut, Subject, reference_contenders, subject_contenders
from harness.measure.counts import Count, impossible_speed, missing_work, skipped_work
from harness.measure.disturbance import Watch, tally
from harness.measure.gpu import open_gpu, watch_for
from harness.measure.machine import Machine
from harness.measure.memory_prediction import MOST, fitting, largest_batch
from harness.measure.rounds import MOST_ROUNDS, Rounds, Stopping, rounds_within
from harness.measure.rows import Facts, Rows, summarise
from harness.measure.setting import AUTO, Setting
from harness.measure.static_figures import Statics, measure_statics
from harness.measure.workload import BATCH_SIZES, Batch, random_batch
from harness.process.memory_reuse import with_room
from harness.records.schema import Record
from harness.statistics.ratios import latency_percentiles


class Progress(Protocol):
    """Told what is under way, and how much of it is done."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` rounds of ``what``."""
        ...


def silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


PRECISION = 0.01


class Benchmark(Protocol):
    """The part of pytest-benchmark's fixture that is used."""

    extra_info: dict[str, Any]
    group: str | None
    disabled: bool
    has_error: bool

    def pedantic(
        self,
        target: Callable[[], object],
        *,
        setup: Callable[[], None],
        teardown: Callable[[], None],
        rounds: int,
        iterations: int,
    ) -> object:
        """Time ``target``; ``setup`` before and ``teardown`` after each round are untimed."""
        ...


class _Enough(Exception):  # noqa: N818 - no error: it leaves a loop whose length is fixed beforehand
    """Sampling is over."""


@dataclass(kw_only=True)
class Measuring:
    """What the benchmarks of one run share: where, how long, and where the records go."""

    run: str
    device: torch.device
    budget: float
    """Seconds for the rounds of one benchmark; building, counting, memory and warm-up come on top."""
    record: Callable[[Record], None]
    precision: float = PRECISION
    """Sampling stops when every ratio's interval is within this to either side."""
    flush: bool = False
    """Empty a GPU's L2 cache before each step that is timed for its latency."""
    process: int = 0
    """Counts the processes that measure the same afresh."""
    progress: Progress = silent
    machine: Machine = field(init=False)

    def __post_init__(self) -> None:
        self.machine = Machine(run=self.run, device=self.device, record=self.record)

    def measure(
        self,
        benchmark: Benchmark,
        subject: Subject,
        setting: Setting,
        *,
        test_id: str,
        flag: str = "",
        budget: float | None = None,
    ) -> None:
        """Measure ``subject`` interleaved with its replicate and its references, and record all of it.

        ``flag`` says why its speed must not be ranked; what looks too fast to be true adds to it. With benchmarks
        disabled (``--benchmark-disable``, xdist) it runs once and records nothing. Raises SubjectError where the
        subject fails, BudgetError where the budget has no room for two rounds, ClockError where a time can't be.
        """
        benchmark.group = f"{subject.architecture.name} {setting.mode}"
        budget = self.budget if budget is None else budget
        with undisturbed():
            try:
                rows = self._rows(subject, setting, test_id, flag, quiet=benchmark.disabled)
                batch = self._batch(rows)
                contenders, left_out = self._contenders(rows, batch)
                statics = None
                if not benchmark.disabled:
                    for absent in left_out:
                        self.record(rows.absence(absent))
                        benchmark.extra_info[f"left_out_{absent.label}"] = absent.reason
                    statics = measure_statics(rows, contenders, self.device, self.record)
                    benchmark.extra_info.update(statics.facts)
                rounds = Rounds(
                    {c.key: c.work for c in contenders}, clock_for(self.device, flush=self.flush), refresh=batch.renew
                )
                expected = 1
                if benchmark.disabled:
                    rounds.plan(1)
                else:
                    expected = rounds_within(budget, rounds.warm_up(budget / 2))
                    rounds.plan(MOST_ROUNDS)
            except Exception as error:
                _fail(benchmark, error)
                raise
            watch, before = watch_for(self.device), open_gpu(self.device).state()
            stopping = self._sample(
                benchmark, rounds, watch, Stopping(precision=self.precision, budget=budget), expected
            )
            after = open_gpu(self.device).state()
        rounds.trim()
        if statics is None:
            return
        suspicions = self._suspicions(contenders, rounds, statics)
        rows = rows.suspect(suspicions)
        if rows.flag:
            benchmark.extra_info["flag"] = rows.flag
        how = {
            "stopped_by": stopping.reason or "rounds",
            "precision": self.precision,
            "budget": budget,
            "warm_up_rounds": rounds.warm_up_rounds,
            "settled": rounds.settled,
            "disturbed": sorted(watch.disturbed),
            "disturbed_by": tally(watch.disturbed),
        }
        if before or after:
            how |= {"device_before": before, "device_after": after}
        self._record_latencies(rows, contenders, rounds, how)
        self._record_energy(rows, contenders)
        benchmark.extra_info.update(self._facts(rows, contenders, rounds, statics, how))

    def _rows(self, subject: Subject, setting: Setting, test_id: str, flag: str, *, quiet: bool) -> Rows:
        rows = Rows(
            run=self.run,
            subject=subject,
            setting=setting,
            device=str(self.device),
            batch_size=1,
            input_size=setting.input_size or subject.architecture.input_size,
            test=test_id,
            flag=flag,
            process=self.process,
        )
        if isinstance(setting.batch_size, int):
            return replace(rows, batch_size=setting.batch_size)
        if setting.batch_size is None or quiet:
            return replace(rows, batch_size=BATCH_SIZES[self.device.type, setting.mode])
        return replace(rows, batch_size=self._largest(rows))

    def _largest(self, rows: Rows) -> int:
        """The largest batch that every contender has room for; each one's own is recorded, with all that was tried."""
        setting = replace(rows.setting, batch_size=1, compile="")
        contenders, _ = self._contenders(replace(rows, setting=setting), self._batch(rows))
        smallest = MOST
        for contender in contenders:
            if contender.replicate:
                continue
            found = largest_batch(fitting(contender.work))
            tries = [{"batch_size": size, "fits": not why, "why": why} for size, why in found.tries]
            self.record(rows.measurement(contender, "largest_batch", [found.size], {"asked": AUTO, "tries": tries}))
            smallest = min(smallest, found.size)
        del contenders
        gc.collect()
        if smallest < 1:
            raise SubjectError(f"{rows.subject.who}: --batch-size auto: not even one image fits on {self.device}")
        return smallest

    def _batch(self, rows: Rows) -> Batch:
        form = torch.channels_last if rows.setting.memory_format == "channels_last" else torch.contiguous_format
        return random_batch(rows.batch_size, rows.input_size, self.device, memory_format=form)

    def _contenders(self, rows: Rows, batch: Batch) -> tuple[list[Contender], list[LeftOut]]:
        """The subject first, then its replicate, then the references."""
        contenders, left_out = list(subject_contenders(rows.subject, rows.setting, batch)), []
        for reference in reference_contenders(rows.subject, rows.setting, batch):
            if isinstance(reference, LeftOut):
                left_out.append(reference)
            else:
                contenders.append(reference)
        return contenders, left_out

    def _sample(
        self, benchmark: Benchmark, rounds: Rounds, watch: Watch, stopping: Stopping, expected: int
    ) -> Stopping:
        """Rounds through pytest-benchmark, until it is enough."""
        what = benchmark.group or ""

        def begin() -> None:
            if rounds.done and stopping.enough(rounds.samples, watch.disturbed):
                raise _Enough
            rounds.before()

        def finish() -> None:
            rounds.after()
            watch.look(rounds.done)
            self.progress(what, rounds.done, max(expected, rounds.done))

        self.progress(what, 0, expected)
        stopping.start()
        with suppress(_Enough):
            # pytest-benchmark takes a fixed number of rounds only; leaving early is no error of what it measured.
            number = len(rounds.orders)
            with_room(benchmark.pedantic, rounds.lead, setup=begin, teardown=finish, rounds=number, iterations=1)
        if stopping.reason:
            benchmark.has_error = False
        return stopping

    def _suspicions(self, contenders: Sequence[Contender], rounds: Rounds, statics: Statics) -> list[str]:
        """What about the subject's figures is too good to be true."""
        subject = contenders[0]
        counts = statics.counts
        references = [(c.label, counts[c.key], statics.parameters[c.key]) for c in contenders if c.role == "reference"]
        found = list(missing_work(counts[subject.key], statics.parameters[subject.key], references))
        asked = max((count.flops for _, count, _ in references), default=counts[subject.key].flops)
        median = latency_percentiles(rounds.samples[subject.key]).median
        found.append(impossible_speed(asked, median, self.machine.peak(subject.work.dtype)))
        try:
            found += skipped_work(subject.work, counts[subject.key])
        except Exception as error:  # a subject that can't be watched has been timed all the same
            found.append(f"can't be looked at closely: {type(error).__name__}")
        return [f"too fast to be true: {reason}" for reason in found if reason]

    def _record_latencies(
        self, rows: Rows, contenders: Sequence[Contender], rounds: Rounds, how: dict[str, Any]
    ) -> None:
        for position, contender in enumerate(contenders):
            details: dict[str, Any] = {"clock": rounds.clock.name}
            if rounds.paces[contender.key]:
                details["pace"] = rounds.paces[contender.key]
            if position == 0:
                keys = [c.key for c in contenders]
                details |= how
                details["contenders"] = keys
                details["orders"] = [[keys.index(k) for k in order] for order in rounds.orders]
            self.record(rows.measurement(contender, "latency", rounds.samples[contender.key], details))

    def _record_energy(self, rows: Rows, contenders: Sequence[Contender]) -> None:
        """Joules of a batch, where the device counts them: in a loop of its own, since its counter is slow."""
        gpu = open_gpu(self.device)
        for contender in contenders:
            if not contender.replicate and (joules := gpu.energy_of(contender.work)) is not None:
                self.record(rows.measurement(contender, "energy", [joules]))

    def _facts(
        self, rows: Rows, contenders: Sequence[Contender], rounds: Rounds, statics: Statics, how: dict[str, Any]
    ) -> Facts:
        subject, replicate, *references = contenders
        count: Count = statics.counts[subject.key]
        return summarise(
            rounds.samples[subject.key],
            rounds.samples[replicate.key],
            {c.label: rounds.samples[c.key] for c in references},
            disturbed=how["disturbed"],
            stopped_by=how["stopped_by"],
            batch_size=rows.batch_size,
            flops=count.flops,
            traffic=count.traffic,
            matmul_peak=self.machine.peak(subject.work.dtype),
            bandwidth=self.machine.bandwidth,
        )


def _fail(benchmark: Benchmark, error: Exception) -> None:
    """Let the benchmark fail with ``error``: left unused it would warn, and hide the reason behind the warning."""

    def failing() -> None:
        raise error

    benchmark.pedantic(failing, setup=lambda: None, teardown=lambda: None, rounds=1, iterations=1)
