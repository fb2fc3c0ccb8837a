from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harness.measure.studies import noise
from harness.measure.studies.noise import Trial, compare, main, seen_bytes, slowed


def test_a_slowed_step_takes_its_part_longer() -> None:
    def step() -> None:
        time.sleep(0.01)

    start = time.perf_counter()
    slowed(step, 0.5)()
    assert time.perf_counter() - start >= 0.0149  # sleeping and waiting end late at most


def test_a_comparison_ends_with_its_time() -> None:
    def step() -> None:
        time.sleep(0.002)

    found = compare(step, step, slowed(step, 0.5), 0.4, seed=0)
    assert found.rounds >= 6
    assert found.low <= found.ratio <= found.high
    assert found.ratio > 1  # the reference is the slow one, by half of each step


def test_an_injected_allocation_is_seen_exactly() -> None:
    assert seen_bytes(noise.instance(32)) == noise.INJECTED_BYTES


def test_the_study_keeps_every_figure_and_says_what_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = Trial(ratio=1.03, low=1.01, high=1.04, floor=0.01, verdict="faster", rounds=50, disturbed=0)
    monkeypatch.setattr(noise, "compare", lambda *_, **__: trial)
    monkeypatch.setattr(noise, "back_to_back", lambda *_: [0.9, 1.0])
    monkeypatch.setattr(noise, "timer_ratio", lambda *_: 1.001)
    code = main(["--comparisons", "2", "--seconds", "1", "--input-size", "32", "--results", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 1
    assert "MISSED equal work off by over 2%: 2 (<= 0)" in said
    assert "MISSED intervals that hold 1: 0 (>= 2)" in said
    assert "held   5 MB more, as seen: 5,000,000 byte" in said
    assert "back to back: 1 of 2 off by over 2%" in said
    (kept,) = tmp_path.glob("*/noise.json")
    found = json.loads(kept.read_text())
    assert found["same"][0]["ratio"] == 1.03
    assert len(found["slower_by_3_percent"]) == len(found["slower_by_10_percent"]) == 2


def test_bad_numbers_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--seconds", "0"])
    assert ended.value.code == 2
    assert "expected positive numbers" in capsys.readouterr().err
