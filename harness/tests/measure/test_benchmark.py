from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.errors import SubjectError
from harness.measure.benchmark import Measuring
from harness.measure.rounds import BudgetError
from harness.measure.setting import Setting
from harness.records.schema import CheckRecord, MeasurementRecord, Mode, Record
from harness.subjects.facts import Architecture, Family
from reference.libraries.reference import Reference

TINY = Architecture(
    name="tiny",
    parameters=0,
    multiply_adds=0.0,
    multiply_adds_tolerance=0.0,
    residual_joins=0,
    input_size=16,
    source="made for this test",
)


def network(num_classes: int = 1000) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14 * 14, num_classes))


def absent(name: str) -> nn.Module:
    raise KeyError(name)


def broken(name: str) -> nn.Module:
    raise RuntimeError(f"{name} needs a newer compiler\nand more")


def references() -> tuple[Reference, ...]:
    return (
        Reference(library="good", version="1.0", build=lambda name: network()),
        Reference(library="absent", version="2.0", build=absent),
        Reference(library="broken", version="3.0", build=broken),
    )


FAMILY = Family(name="tinies", architectures=(TINY,), model="", references=references)


class Subject:
    label = "mine"
    who = "tiny of mine"
    architecture = TINY
    family = FAMILY

    def __init__(self, make: Callable[[int], nn.Module] = network) -> None:
        self.make = make

    def build(self, num_classes: int = 1000) -> nn.Module:
        return self.make(num_classes)


class Pedantic:
    """pytest-benchmark's fixture, as far as rounds go."""

    def __init__(self, disabled: bool = False) -> None:
        self.extra_info: dict[str, Any] = {}
        self.group: str | None = None
        self.disabled = disabled
        self.has_error = False
        self.rounds = 0

    def pedantic(
        self,
        target: Callable[[], object],
        *,
        setup: Callable[[], None],
        teardown: Callable[[], None],
        rounds: int,
        iterations: int,
    ) -> object:
        assert iterations == 1
        if self.disabled:
            setup()
            return target()
        for _ in range(rounds):
            setup()
            self.rounds += 1
            target()
            teardown()
        return None


@pytest.fixture
def records() -> list[Record]:
    return []


@pytest.fixture
def measuring(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> Measuring:
    monkeypatch.setattr("harness.measure.machine.SIDES", {"cpu": 64})
    monkeypatch.setattr("harness.measure.machine.COPIED", {"cpu": 4096})
    monkeypatch.setattr("harness.measure.benchmark.MOST_ROUNDS", 8)
    monkeypatch.setattr("harness.measure.rounds.MOST_ROUNDS", 8)
    return Measuring(run="r", device=torch.device("cpu"), budget=60, record=records.append)


def run(measuring: Measuring, subject: Subject, mode: Mode = "infer", flag: str = "") -> Pedantic:
    benchmark = Pedantic()
    measuring.measure(benchmark, subject, Setting(mode=mode), test_id="t", flag=flag)
    return benchmark


def measured(records: list[Record], quantity: str) -> dict[tuple[str, int], MeasurementRecord]:
    rows = [r for r in records if isinstance(r, MeasurementRecord) and r.quantity == quantity]
    return {(r.subject, r.replicate): r for r in rows}


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_everything_is_recorded(measuring: Measuring, records: list[Record], mode: Mode) -> None:
    benchmark = run(measuring, Subject(), mode)
    latency = measured(records, "latency")
    assert set(latency) == {("mine", 0), ("mine", 1), ("good", 0)}
    assert {len(r.samples) for r in latency.values()} == {8}
    assert benchmark.rounds == 8
    assert len({r.comparison for r in latency.values()}) == 1
    details = latency["mine", 0].details
    assert details["contenders"] == ["subject:mine", "subject:mine#1", "reference:good"]
    assert [sorted(order) for order in details["orders"]] == [[0, 1, 2]] * 8
    flops = measured(records, "flops")
    conv, head = 2 * 14 * 14 * 4 * 27, 2 * 784 * 1000
    size = latency["mine", 0].batch_size
    assert flops["mine", 0].samples == (size * (conv + head if mode == "infer" else 2 * conv + 3 * head),)
    assert measured(records, "parameters")["good", 0].samples == (4 * 28 + 8 + 785 * 1000,)
    peak = measured(records, "peak_memory")
    assert peak["mine", 0].samples == peak["good", 0].samples
    assert peak["mine", 0].details["resident"]["optimizer_state"] == (0 if mode == "infer" else 4 * 785_120)


def test_the_machines_peak_is_measured_once(measuring: Measuring, records: list[Record]) -> None:
    run(measuring, Subject())
    run(measuring, Subject())
    assert [r.role for r in records if isinstance(r, MeasurementRecord) and r.quantity == "matmul_peak"] == ["machine"]


def test_facts_are_numbers_and_strings(measuring: Measuring) -> None:
    facts = run(measuring, Subject(), flag="failed parity").extra_info
    assert all(isinstance(v, int | float | str) for v in facts.values())
    assert facts["flag"] == "failed parity"
    assert facts["ratio_to_good_low"] <= facts["ratio_to_good"] <= facts["ratio_to_good_high"]
    assert facts["verdict_on_good"] in ("faster", "slower", "no difference seen")
    assert facts["images_per_second"] == pytest.approx(4 / facts["latency_median"])
    assert facts["share_of_matmul_peak"] > 0


def test_only_the_subject_is_flagged(measuring: Measuring, records: list[Record]) -> None:
    run(measuring, Subject(), flag="failed parity")
    flags = {r.role: r.flag for r in records if isinstance(r, MeasurementRecord)}
    assert flags == {"subject": "failed parity", "reference": "", "machine": ""}


def test_references_that_cannot_take_part_are_recorded_with_the_reason(
    measuring: Measuring, records: list[Record]
) -> None:
    facts = run(measuring, Subject()).extra_info
    absences = {r.check: r.message for r in records if isinstance(r, CheckRecord)}
    assert absences == {
        "measured_against_absent": "absent 2.0 has no tiny",
        "measured_against_broken": "broken 3.0: RuntimeError: tiny needs a newer compiler",
    }
    assert facts["left_out_absent"] == "absent 2.0 has no tiny"


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such luck")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda n: Raises(),
            r"tiny of mine: training step on a tensor \(2, 3, 16, 16\) .* raised RuntimeError",
        ),
        (lambda n: network(7), "raised|gave a tensor .*expected a tensor of shape"),
    ],
    ids=["raises", "wrong-width"],
)
def test_a_subject_that_fails_says_so(measuring: Measuring, make: Callable[[int], nn.Module], message: str) -> None:
    with pytest.raises(SubjectError, match=message):
        run(measuring, Subject(make), "train")


def test_a_budget_without_room_names_the_one_needed(measuring: Measuring) -> None:
    measuring.budget = 1e-9
    with pytest.raises(BudgetError, match="give at least --budget"):
        run(measuring, Subject())


def test_disabled_benchmarks_run_once_and_record_nothing(measuring: Measuring, records: list[Record]) -> None:
    measuring.measure(Pedantic(disabled=True), Subject(), Setting(mode="infer"), test_id="t")
    assert records == []


def test_progress_counts_the_rounds(measuring: Measuring) -> None:
    told: list[tuple[str, int, int]] = []
    measuring.progress = lambda what, done, total: told.append((what, done, total))
    run(measuring, Subject())
    assert told == [("tiny infer", done, 8) for done in range(9)]


def test_random_state_and_threads_are_left_alone(measuring: Measuring) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run(measuring, Subject(), "train")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_another_setting_is_measured_and_said(measuring: Measuring, records: list[Record]) -> None:
    setting = Setting(mode="train", batch_size=3, dtype="bfloat16", memory_format="channels_last", input_size=16)
    measuring.measure(Pedantic(), Subject(), setting, test_id="t")
    row = measured(records, "latency")["mine", 0]
    assert (row.dtype, row.memory_format, row.batch_size, row.input_size) == ("bfloat16", "channels_last", 3, 16)
    assert row.comparison == "mine:tiny-train-b3-16px-bfloat16-channels_last"
    assert measured(records, "flops")["mine", 0].details["dtypes"] == ["bfloat16"]
    peaks = [r for r in records if isinstance(r, MeasurementRecord) and r.quantity == "matmul_peak"]
    assert [r.dtype for r in peaks] == ["bfloat16"]


def test_compiling_is_timed_apart(measuring: Measuring, records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "harness.measure.contenders._compiled", lambda model, mode: torch.compile(model, backend="aot_eager")
    )
    measuring.measure(Pedantic(), Subject(), Setting(mode="infer", compile="default"), test_id="t")
    compiling = measured(records, "compile_time")["mine", 0]
    assert compiling.compile == "default"
    assert compiling.samples[0] > max(measured(records, "latency")["mine", 0].samples)
    assert measured(records, "time_to_first")["mine", 0].samples[0] > compiling.samples[0]


def test_the_largest_batch_is_tried_recorded_and_used(
    measuring: Measuring, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.measure.benchmark.fitting", lambda work: lambda size: "full" if size > 5 else "")
    measuring.measure(Pedantic(), Subject(), Setting(mode="infer", batch_size="auto"), test_id="t")
    largest = measured(records, "largest_batch")
    assert set(largest) == {("mine", 0), ("good", 0)}
    assert largest["mine", 0].samples == (5,)
    assert {"batch_size": 8, "fits": False, "why": "full"} in largest["mine", 0].details["tries"]
    assert {r.batch_size for r in measured(records, "latency").values()} == {5}


def test_not_even_one_image_fits(measuring: Measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.measure.benchmark.fitting", lambda work: lambda size: "full")
    with pytest.raises(SubjectError, match="tiny of mine: --batch-size auto: not even one image fits on cpu"):
        measuring.measure(Pedantic(), Subject(), Setting(mode="infer", batch_size="auto"), test_id="t")


def test_how_it_was_sampled_is_kept(measuring: Measuring, records: list[Record]) -> None:
    run(measuring, Subject())
    details = measured(records, "latency")["mine", 0].details
    assert details["stopped_by"] == "rounds"
    assert details["precision"] == 0.01
    assert details["warm_up_rounds"] >= 2
    assert isinstance(details["disturbed"], list)
    assert sum(details["disturbed_by"].values()) == len(details["disturbed"])


def test_memory_is_broken_down_and_predicted(measuring: Measuring, records: list[Record]) -> None:
    run(measuring, Subject(), "train")
    predicted = measured(records, "predicted_memory")["mine", 0]
    peak = measured(records, "peak_memory")["mine", 0]
    total = peak.samples[0] + sum(peak.details["resident"].values())
    assert predicted.samples[0] == pytest.approx(total, rel=0.05)
    assert peak.details["breakdown"]["optimizer_state"] == 4 * 785_120
    assert sum(peak.details["breakdown"].values()) == pytest.approx(total, rel=0.05)
    batches = predicted.details["largest_batch"]
    assert batches["8 GiB"] < batches["80 GiB"]


class Remembers(nn.Module):
    """Answers from its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.answer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:
            return self.net(x)  # type: ignore[no-any-return]
        if self.answer is None:
            self.answer = self.net(x)
        return self.answer


def test_what_is_too_fast_to_be_true_is_flagged(measuring: Measuring, records: list[Record]) -> None:
    facts = run(measuring, Subject(lambda classes: Remembers())).extra_info
    flags = {r.role: r.flag for r in measured(records, "latency").values()}
    assert flags["reference"] == ""
    assert flags["subject"] == facts["flag"]
    assert "too fast to be true" in flags["subject"]
    assert "output cached" in flags["subject"]
