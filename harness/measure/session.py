"""One benchmark from start to end: contenders, counts, memory, warm-up, rounds, records, facts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from harness.measure.clock import clock_for
from harness.measure.conditions import undisturbed
from harness.measure.contender import Contender, LeftOut, Subject, reference_contenders, subject_contenders
from harness.measure.counts import count_flops, count_parameters
from harness.measure.facts import summarise
from harness.measure.interleave import Rounds
from harness.measure.memory import meter_for, resident
from harness.measure.peak import SIDES, matmul_peak
from harness.measure.progress import Progress, silent
from harness.measure.workload import BATCH_SIZES, random_batch
from harness.records import CheckRecord, MeasurementRecord, Mode, Quantity, Record


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
    ) -> None:
        """Measure ``subject`` interleaved with its replicate and its references, and record all of it.

        ``flag`` says why its speed must not be ranked. With benchmarks disabled (``--benchmark-disable``, xdist) it
        runs once and records nothing. Raises SubjectError where the subject fails, BudgetError where the budget has
        no room for two rounds, ClockError where a time can't be.
        """
        size = batch_size or BATCH_SIZES[self.device.type, mode]
        side = image_size or subject.architecture.input_size
        batch = random_batch(size, side, self.device)
        benchmark.group = f"{subject.architecture.name} {mode}"
        contenders, left_out = list(subject_contenders(subject, mode, batch)), []
        for reference in reference_contenders(subject, mode, batch):
            if isinstance(reference, LeftOut):
                left_out.append(reference)
            else:
                contenders.append(reference)
        rounds = Rounds({c.key: c.work for c in contenders}, clock_for(self.device))
        if benchmark.disabled:
            rounds.plan(1.0, 0.5)
            benchmark.pedantic(rounds.lead, setup=rounds.before, teardown=rounds.after, rounds=1, iterations=1)
            return
        rows = _Rows(self, subject, mode, size, side, test_id, flag)
        for absent in left_out:
            self.record(rows.absence(absent))
            benchmark.extra_info[f"left_out_{absent.label}"] = absent.reason
        peak, flops = self.peak, 0
        meter = meter_for(self.device)
        for contender in contenders:
            if contender.replicate:
                continue  # the same code on the same shapes: its counts and memory are the first one's
            parameters = count_parameters(contender.work.model)
            counted = count_flops(contender.work)
            memory = meter.peak(contender.work)
            held = resident(contender.work)
            if memory.reserved is not None:
                held["reserved"] = memory.reserved
            self.record(rows.row(contender, "parameters", [parameters]))
            self.record(rows.row(contender, "flops", [counted]))
            self.record(rows.row(contender, "peak_memory", [memory.allocated], {"resident": held}))
            if contender.role == "subject":
                flops = counted
                benchmark.extra_info.update(parameters=parameters, flops=counted, peak_memory=memory.allocated)
            else:
                benchmark.extra_info[f"peak_memory_{contender.label}"] = memory.allocated
        what = f"{subject.architecture.name} of {subject.label}, {mode}"
        with undisturbed():
            seconds = rounds.warm_up(self.budget / 2)
            planned = rounds.plan(self.budget, seconds)

            def finish() -> None:
                rounds.after()
                self.progress(what, len(rounds.orders), planned)

            self.progress(what, 0, planned)
            benchmark.pedantic(rounds.lead, setup=rounds.before, teardown=finish, rounds=planned, iterations=1)
        for contender in contenders:
            details: dict[str, Any] = {"clock": rounds.clock.name, "version": contender.version}
            if rounds.paces[contender.key]:
                details["pace"] = rounds.paces[contender.key]
            if contender is contenders[0]:
                keys = [c.key for c in contenders]
                details["contenders"] = keys
                details["orders"] = [[keys.index(k) for k in order] for order in rounds.orders]
            self.record(rows.row(contender, "latency", rounds.samples[contender.key], details))
        benchmark.extra_info.update(
            summarise(
                rounds.samples[contenders[0].key],
                rounds.samples[contenders[1].key],
                {c.label: rounds.samples[c.key] for c in contenders if c.role == "reference"},
                batch_size=size,
                flops=flops,
                matmul_peak=peak,
            )
        )
        if flag:
            benchmark.extra_info["flag"] = flag


@dataclass(frozen=True)
class _Rows:
    """Makes the records of one comparison."""

    measuring: Measuring
    subject: Subject
    mode: Mode
    batch_size: int
    input_size: int
    test: str
    flag: str

    def row(
        self,
        contender: Contender,
        quantity: Quantity,
        samples: Sequence[float],
        details: Mapping[str, Any] | None = None,
    ) -> MeasurementRecord:
        return MeasurementRecord(
            run=self.measuring.run,
            suite=self.subject.family.name,
            architecture=self.subject.architecture.name,
            subject=contender.label,
            role=contender.role,
            replicate=contender.replicate,
            comparison=f"{self.subject.label}:{self.subject.architecture.name}-{self.mode}-b{self.batch_size}",
            quantity=quantity,
            samples=tuple(samples),
            mode=self.mode,
            device=str(self.measuring.device),
            batch_size=self.batch_size,
            input_size=self.input_size,
            test=self.test,
            flag=self.flag if contender.role == "subject" else "",
            details=details or {},
        )

    def absence(self, absent: LeftOut) -> CheckRecord:
        return CheckRecord(
            run=self.measuring.run,
            suite=self.subject.family.name,
            architecture=self.subject.architecture.name,
            subject=self.subject.label,
            check=f"measured_against_{absent.label}",
            outcome="skipped",
            message=absent.reason,
            test=self.test,
        )
