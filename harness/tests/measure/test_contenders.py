"""Compiled models, measured as those as written are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from harness.errors import SubjectError
from harness.measure.benchmark import Measuring
from harness.measure.setting import Setting
from harness.records.schema import Mode, Record
from harness.tests.judged import run
from harness.tests.measure.test_benchmark import FAMILY, TINY, Pedantic, Subject, measured, measuring, records
from suites.resnet.architectures import FAMILY as RESNETS
from suites.resnet.model import resnet18

__all__ = ["measuring", "records"]  # fixtures

COMPILING = ("--arch", "resnet18", "-k", "test_speed", "--benchmark", "--compile", "default", "--device", "cpu")


def test_a_network_compiled_by_inductor_is_measured(tmp_path: Path) -> None:
    """All of the command line; without a C++ compiler it says what is missing."""
    done = run(tmp_path, *COMPILING, "--modes", "infer", "--input-size", "32", "--batch-size", "1", "--budget", "5")
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        assert done.error().startswith("--compile default: needs a C++ compiler")
        return
    assert done.code == pytest.ExitCode.OK, done.out
    rows = [row for row in done.rows if row.get("compile")]
    assert {row["compile"] for row in rows} == {"default"}
    everybody = {"ours", "torchvision", "timm"}
    for quantity in ("latency", "compile_time"):
        assert {row["subject"] for row in rows if row["quantity"] == quantity} == everybody
    slowest = max(max(row["samples"]) for row in rows if row["quantity"] == "latency")
    assert all(row["samples"][0] > slowest for row in rows if row["quantity"] == "compile_time")
    assert {row["flag"] for row in rows} == {""}


def test_without_a_compiler_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    done = run(tmp_path, "--collect-only", "-q", *COMPILING)
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert done.error().startswith("--compile default: needs a C++ compiler, and torch finds none that works; install")


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_real_network_is_measured_compiled(
    mode: Mode, measuring: Measuring, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module has no length, as containers have; each of them is compiled once, whatever looks at it later."""
    graphs: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(len(inputs))
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=counting)
    monkeypatch.setattr(
        "harness.measure.contenders._compiled", lambda model, mode: torch.compile(model, backend=backend)
    )
    subject = Subject(resnet18)
    subject.family = replace(FAMILY, references=RESNETS.references)
    subject.architecture = replace(TINY, name="resnet18", input_size=32)
    measuring.measure(Pedantic(), subject, Setting(mode=mode, compile="default"), test_id="t")
    everybody = {("mine", 0), ("torchvision", 0), ("timm", 0)}
    assert set(measured(records, "compile_time")) == everybody
    latencies = measured(records, "latency")
    assert set(latencies) == {*everybody, ("mine", 1)}
    assert {row.flag for row in latencies.values()} == {""}
    # The replicate finds the subject's code; a training step has a graph for each direction.
    assert len(graphs) == 3 * (2 if mode == "train" else 1)


def test_nothing_compiled_before_is_found(measuring: Measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[str] = []

    def noting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        folders.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        return graph.forward

    monkeypatch.setattr(
        "harness.measure.contenders._compiled", lambda model, mode: torch.compile(model, backend=noting)
    )
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    for _ in range(2):
        measuring.measure(Pedantic(), Subject(), Setting(mode="infer", compile="default"), test_id="t")
    # In each comparison the subject's; the reference here is of the very same layers, and shares the code in memory.
    assert len(set(folders)) == len(folders) >= 2
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == before
    assert not any(os.path.exists(folder) for folder in folders)


def test_a_subject_that_cannot_be_compiled_is_told_in_one_line(
    measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(
        "harness.measure.contenders._compiled", lambda model, mode: torch.compile(model, backend=refusing)
    )
    with pytest.raises(SubjectError, match=r"inference on .*, compiled with mode default, raised .*no such instr") as e:
        measuring.measure(Pedantic(), Subject(), Setting(mode="infer", compile="default"), test_id="t")
    assert "\n" not in str(e.value)
