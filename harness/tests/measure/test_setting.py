from __future__ import annotations

import pytest

from harness.errors import RequestError
from harness.measure.setting import Setting, matrix
from harness.plugin.options import MeasurementOptions


def test_the_default_is_both_modes_as_the_device_likes_it() -> None:
    assert matrix() == (Setting(mode="infer"), Setting(mode="train"))
    assert [s.id for s in matrix()] == ["infer", "train"]


def test_every_combination_once() -> None:
    found = matrix(
        modes="infer",
        batch_sizes="1, 8,8,auto",
        dtypes="float32,bfloat16",
        memory_formats="contiguous,channels_last",
        compile_modes="none,default",
        input_sizes="128",
    )
    assert len(found) == len({s.id for s in found}) == 3 * 2 * 2 * 2
    assert "infer-b8-128px-bfloat16-channels_last-compile_default" in {s.id for s in found}
    assert {s.batch_size for s in found} == {1, 8, "auto"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"modes": "eval"}, "--modes eval: known: infer, train"),
        ({"modes": " , "}, "--modes: expected at least one name"),
        ({"batch_sizes": "0"}, "--batch-size 0: expected a positive integer or auto"),
        ({"batch_sizes": "8,-1"}, "--batch-size -1: expected a positive integer or auto"),
        ({"batch_sizes": "1.5"}, "--batch-size 1.5: expected a positive integer or auto"),
        (
            {"batch_sizes": "\N{SUPERSCRIPT TWO}"},
            "--batch-size \N{SUPERSCRIPT TWO}: expected a positive integer or auto",
        ),
        ({"dtypes": "float64"}, "--dtype float64: known: float32, bfloat16, float16"),
        ({"memory_formats": "channels_first"}, "--memory-format channels_first: known: contiguous, channels_last"),
        ({"compile_modes": "fast"}, "--compile fast: known: none, default, reduce-overhead, max-autotune"),
        ({"input_sizes": "auto"}, "--input-size auto: expected a positive integer"),
    ],
)
def test_what_makes_no_sense_is_one_line(given: dict[str, str], says: str) -> None:
    with pytest.raises(RequestError) as raised:
        matrix(**given)
    assert str(raised.value).startswith(says)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (MeasurementOptions(precision=0.0), "--precision 0: expected a fraction"),
        (MeasurementOptions(precision=float("nan")), "--precision nan: expected a fraction"),
        (MeasurementOptions(repeats=0), "--repeats 0: expected a positive number of processes"),
        (MeasurementOptions(memory_limit=-1.0), "--memory-limit -1: expected a positive number of gigabytes"),
    ],
)
def test_numbers_out_of_range_are_one_line(options: MeasurementOptions, says: str) -> None:
    with pytest.raises(RequestError) as raised:
        options.validate()
    assert str(raised.value).startswith(says)


def test_the_cache_that_only_cuda_has() -> None:
    with pytest.raises(RequestError, match="--flush-l2: only CUDA devices have it, and --device is cpu"):
        MeasurementOptions(flush_l2=True).validate_for("cpu")
