from __future__ import annotations

import time

import pytest

from harness.measure.studies.overhead import main, measure_overhead, product


def test_blocks_are_paired_and_every_step_runs() -> None:
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        time.sleep(1e-4)

    overhead = measure_overhead(step, 3, steps=4)
    assert calls == 4 * (1 + 2 * 3)
    assert len(overhead.bare) == len(overhead.reported) == len(overhead.spent) == 3
    assert all(r <= s for r, s in zip(overhead.reported, overhead.spent, strict=True))


def test_product_does_work() -> None:
    product(1e-4)()


def test_bad_request(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--blocks", "0"])
    assert "expected at least 1" in capsys.readouterr().err
