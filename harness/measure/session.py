"""One benchmark from start to end: contenders, counts, memory, warm-up, rounds, records, facts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from harness.measure.clock import clock_for
from harness.measure.conditions import undisturbed
from harness.measure.contender import Contender, LeftOut, Subject, reference_contenders, subject_contenders
from harness.measure.counts import count_flops, count_parameters
from harness.measure.facts import Facts, summarise
from harness.measure.interleave import Rounds, rounds_within
from harness.measure.memory import meter_for, resident
from harness.measure.peak import SIDES, matmul_peak
from harness.measure.progress import Progress, silent
from harness.measure.rows import Rows
from harness.measure.workload import BATCH_SIZES, random_batch
from harness.records import MeasurementRecord, Mode, Record


class Benchmark(Protocol):
    """The part of pytest-benchmark's fixture that is used."""

    extra_info: dict[str, Any]
    group: str | None
    disabled: bool

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


@dataclass(kw_only=True)
class Measuring:
    """What the benchmarks of one run share: where, how long, and where the records go."""

    run: str
    device: torch.device
    budget: float
    """Seconds for the rounds of one benchmark; building, counting, memory and warm-up come on top."""
    record: Callable[[Record], None]
    progress: Progress = silent

    @cached_property
    def peak(self) -> float:
        """FLOP/s of float32 matrix products on this machine, measured and recorded when first asked for."""
        samples = matmul_peak(self.device)
        self.record(
            MeasurementRecord(
                run=self.run,
                suite="machine",
                architecture="matmul",
                subject=self.device.type,
                role="machine",
                comparison="machine",
                quantity="matmul_peak",
                samples=samples,
                device=str(self.device),
                input_size=SIDES[self.device.type],
                details={"precision": torch.get_float32_matmul_precision(), "threads": torch.get_num_threads()},
            )
        )
        return statistics.median(samples)

    def measure(
        self,
        benchmark: Benchmark,
        subject: Subject,
        mode: Mode,
        *,
        test_id: str,
        flag: str = "",
        batch_size: int | None = None,
        image_size: int | None = None,
        budget: float | None = None,
    ) -> None:
        """Measure ``subject`` interleaved with its replicate and its references, and record all of it.

        ``flag`` says why its speed must not be ranked. With benchmarks disabled (``--benchmark-disable``, xdist) it
        runs once and records nothing. Raises SubjectError where the subject fails, BudgetError where the budget has
        no room for two rounds, ClockError where a time can't be.
        """
        rows = Rows(
            run=self.run,
            subject=subject,
            mode=mode,
            device=str(self.device),
            batch_size=batch_size or BATCH_SIZES[self.device.type, mode],
            input_size=image_size or subject.architecture.input_size,
            test=test_id,
            flag=flag,
        )
        benchmark.group = f"{subject.architecture.name} {mode}"
        budget = self.budget if budget is None else budget
        with undisturbed():
            try:
                contenders, left_out = self._contenders(rows)
                if not benchmark.disabled:
                    benchmark.extra_info.update(self._absences(rows, left_out), **self._statics(rows, contenders))
                rounds = Rounds({c.key: c.work for c in contenders}, clock_for(self.device))
                planned = rounds.plan(1 if benchmark.disabled else rounds_within(budget, rounds.warm_up(budget / 2)))
            except Exception as error:
                _fail(benchmark, error)
                raise
            what = f"{subject.who}, {mode}"

            def finish() -> None:
                rounds.after()
                self.progress(what, rounds.done, planned)

            self.progress(what, 0, planned)
            benchmark.pedantic(rounds.lead, setup=rounds.before, teardown=finish, rounds=planned, iterations=1)
        rounds.trim()
        if not benchmark.disabled:
            self._record_latencies(rows, contenders, rounds)
            benchmark.extra_info.update(self._facts(rows, contenders, rounds, benchmark.extra_info["flops"]))

    def _contenders(self, rows: Rows) -> tuple[list[Contender], list[LeftOut]]:
        """The subject first, then its replicate, then the references."""
        batch = random_batch(rows.batch_size, rows.input_size, self.device)
        contenders, left_out = list(subject_contenders(rows.subject, rows.mode, batch)), []
        for reference in reference_contenders(rows.subject, rows.mode, batch):
            if isinstance(reference, LeftOut):
                left_out.append(reference)
            else:
                contenders.append(reference)
        return contenders, left_out

    def _absences(self, rows: Rows, left_out: Sequence[LeftOut]) -> Facts:
        for absent in left_out:
            self.record(rows.absence(absent))
        return {f"left_out_{absent.label}": absent.reason for absent in left_out}

    def _statics(self, rows: Rows, contenders: Sequence[Contender]) -> Facts:
        """Counts and memory, which one look settles; the replicate's are the subject's."""
        facts: Facts = {"flag": rows.flag} if rows.flag else {}
        meter = meter_for(self.device)
        for contender in contenders:
            if contender.replicate:
                continue
            parameters, flops = count_parameters(contender.work.model), count_flops(contender.work)
            peak = meter.peak(contender.work)
            details: dict[str, Any] = {"resident": resident(contender.work)}
            if peak.reserved is not None:
                details["reserved"] = peak.reserved
            self.record(rows.measurement(contender, "parameters", [parameters]))
            self.record(rows.measurement(contender, "flops", [flops]))
            self.record(rows.measurement(contender, "peak_memory", [peak.allocated], details))
            if contender.role == "subject":
                facts.update(parameters=parameters, flops=flops, peak_memory=peak.allocated)
            else:
                facts[f"peak_memory_{contender.label}"] = peak.allocated
        return facts

    def _record_latencies(self, rows: Rows, contenders: Sequence[Contender], rounds: Rounds) -> None:
        for position, contender in enumerate(contenders):
            details: dict[str, Any] = {"clock": rounds.clock.name}
            if rounds.paces[contender.key]:
                details["pace"] = rounds.paces[contender.key]
            if position == 0:
                keys = [c.key for c in contenders]
                details["contenders"] = keys
                details["orders"] = [[keys.index(k) for k in order] for order in rounds.orders]
            self.record(rows.measurement(contender, "latency", rounds.samples[contender.key], details))

    def _facts(self, rows: Rows, contenders: Sequence[Contender], rounds: Rounds, flops: int) -> Facts:
        subject, replicate, *references = contenders
        return summarise(
            rounds.samples[subject.key],
            rounds.samples[replicate.key],
            {c.label: rounds.samples[c.key] for c in references},
            batch_size=rows.batch_size,
            flops=flops,
            matmul_peak=self.peak,
        )


def _fail(benchmark: Benchmark, error: Exception) -> None:
    """Let the benchmark fail with ``error``: left unused it would warn, and hide the reason behind the warning."""

    def failing() -> None:
        raise error

    benchmark.pedantic(failing, setup=lambda: None, teardown=lambda: None, rounds=1, iterations=1)
