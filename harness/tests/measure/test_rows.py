from __future__ import annotations

import json
import math

import pytest

from harness.measure.rows import summarise
from harness.statistics.ratios import INSTANCE_SCATTER


def test_figures_follow_from_the_latencies() -> None:
    facts = summarise(
        [0.5] * 8, [0.5] * 8, {"timm": [0.25] * 8, "other": [1.0] * 8}, batch_size=4, flops=100, matmul_peak=800.0
    )
    assert facts["images_per_second"] == 8
    assert facts["flops_per_second"] == 200
    assert facts["share_of_matmul_peak"] == 0.25
    assert facts["noise_floor"] == pytest.approx(1.959964 * math.sqrt(3 / 2) * INSTANCE_SCATTER)  # rounds agree
    assert facts["ratio_to_timm"] == pytest.approx(0.5)
    assert facts["verdict_on_timm"] == "slower"
    assert facts["verdict_on_other"] == "faster"


def test_a_single_round_is_still_valid_json() -> None:
    facts = summarise([0.5], [0.5], {"timm": [0.25]}, batch_size=1, flops=1, matmul_peak=1.0)
    json.dumps(facts, allow_nan=False)
    assert facts["noise_floor"] == "unbounded"
    assert facts["verdict_on_timm"] == "cannot tell"
