"""The options, as ``pytest --help`` shows them, what those about measuring ask for, and commands that repeat them."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError
from harness.measure.setting import COMPILE_MODES, DTYPES, MEMORY_FORMATS, Setting, matrix

if TYPE_CHECKING:
    import pytest

LISTS = {
    "--modes": ("infer,train", "infer, train"),
    "--batch-size": ("", "images, or auto for the largest batch that fits (default: the device's)"),
    "--dtype": ("float32", f"{', '.join(DTYPES)} (autocast)"),
    "--memory-format": ("contiguous", ", ".join(MEMORY_FORMATS)),
    "--compile": ("", f"modes of torch.compile, by inductor: {', '.join(COMPILE_MODES)}; none for as written"),
    "--input-size": ("", "side of the images in pixels (default: the architecture's own)"),
}
CHECKING: dict[str, Any] = {
    "--arch": "",
    "--device": "auto",
    "--seed": 0,
    "--weights": "random",
    "--compile-backend": "aot_eager",
    "--hypothesis-profile": None,
    "--hypothesis-seed": None,
}
"""The options beside ``--subject`` that decide what a check does, and their defaults."""
MEASURING: dict[str, Any] = {
    **{option: default for option, (default, _) in LISTS.items()},
    "--budget": 15.0,
    "--precision": 0.01,
    "--flush-l2": False,
}
"""The options that decide, beside those, what a benchmark does."""


def repeated_options(config: pytest.Config, *, benchmark: bool) -> list[str]:
    """The options without which a test, or a ``benchmark``, isn't there or does something else: all that were given."""
    options = ["--benchmark"] if benchmark else []
    if "harness.plugin" in config.option.plugins:  # outside the project's folder nothing else loads it
        options += ["-p", "harness.plugin"]
    for spec in config.getoption("--subject"):
        options += ["--subject", spec]
    for option, default in {**CHECKING, **(MEASURING if benchmark else {})}.items():
        given = config.getoption(option, default)
        if given != default:
            options += [option] if given is True else [option, str(given)]
    return options


def command_of(config: pytest.Config, test: str, *, benchmark: bool) -> str:
    """A line for the shell that repeats the test with that id in the folder in which pytest was started."""
    file, colons, name = test.partition("::")
    there = config.invocation_params.dir
    place = file if there == config.rootpath else Path(os.path.relpath(config.rootpath / file, there)).as_posix()
    return shlex.join(["pytest", f"{place}{colons}{name}", *repeated_options(config, benchmark=benchmark)])


def add_options(parser: pytest.Parser) -> None:
    """Who is judged, where, and how thoroughly."""
    group = parser.getgroup("conformance", "conformance and benchmarks of vision architectures")
    group.addoption(
        "--subject",
        action="append",
        default=[],
        metavar="FILE|MODULE",
        help="implementation to judge: a file or importable module whose callables are named after architectures "
        "(resnet50(num_classes=1000) -> nn.Module); repeatable; default: the suites' own models",
    )
    group.addoption(
        "--arch",
        default=CHECKING["--arch"],
        metavar="NAMES",
        help="architectures, comma-separated names or globs (efficientnet_b*)",
    )
    group.addoption(
        "--device",
        default=CHECKING["--device"],
        metavar="DEVICE",
        help="where to measure: auto, cpu, cuda or cuda:N (default auto)",
    )
    group.addoption(
        "--results", default="results", metavar="DIR", help="folder that keeps one folder per run (default results)"
    )
    group.addoption("--benchmark", action="store_true", help="also measure speed and memory, and write the report")
    group.addoption(
        "--budget",
        type=float,
        default=MEASURING["--budget"],
        metavar="SECONDS",
        help="time for the rounds of each benchmark (default 15)",
    )
    group.addoption(
        "--seed",
        type=int,
        default=CHECKING["--seed"],
        metavar="N",
        help="seed of weights and images in the checks (default 0)",
    )
    group.addoption(
        "--compile-backend",
        default=CHECKING["--compile-backend"],
        metavar="NAME",
        help="torch.compile backend of the compile check: aot_eager (default, no code generation) or inductor",
    )
    group.addoption(
        "--mutants",
        choices=("third", "all"),
        default="third",
        help="how many of the faulty models the harness's own tests try to pass off as correct (default third)",
    )
    group.addoption(
        "--weights",
        choices=("random", "imagenet"),
        default=CHECKING["--weights"],
        help="imagenet also compares with the libraries' pretrained weights, where they can be had (default random)",
    )


def add_measurement_options(parser: pytest.Parser) -> None:
    """What is measured, how well, and in which process."""
    group = parser.getgroup("measurement", "what --benchmark measures; lists are comma-separated")
    for option, (default, what) in LISTS.items():
        group.addoption(option, default=default, metavar="LIST", help=what)
    group.addoption(
        "--precision",
        type=float,
        default=MEASURING["--precision"],
        metavar="FRACTION",
        help="stop sampling when the ratios' intervals are within this to either side, or --budget is spent (0.01)",
    )
    group.addoption("--flush-l2", action="store_true", help="CUDA: empty the L2 cache before each timed step")
    group.addoption(
        "--isolate",
        action="store_true",
        help="every benchmark in a process of its own: a crash, a hang or running out of memory is a row, and no end",
    )
    group.addoption(
        "--repeats", type=int, default=1, metavar="N", help="processes per benchmark (more than one implies --isolate)"
    )
    group.addoption(
        "--memory-limit",
        type=float,
        default=0.0,
        metavar="GB",
        help="end an isolated benchmark that takes more (default: nine tenths of what is free when it starts)",
    )
    group.addoption(
        "--resume", default="", metavar="RUN", help="go on with an interrupted run: do what is missing, in its folder"
    )
    group.addoption("--process", type=int, default=0, help="which of the repeated processes this is (set by --repeats)")


@dataclass(frozen=True, kw_only=True)
class MeasurementOptions:
    """What the options ask for; see `add_measurement_options`."""

    modes: str = "infer,train"
    batch_sizes: str = ""
    dtypes: str = "float32"
    memory_formats: str = "contiguous"
    compile_modes: str = ""
    input_sizes: str = ""
    precision: float = 0.01
    flush_l2: bool = False
    isolate: bool = False
    repeats: int = 1
    memory_limit: float = 0.0
    """Gigabytes; 0 for most of what is free."""
    resume: str = ""
    process: int = 0

    @classmethod
    def of(cls, config: pytest.Config) -> MeasurementOptions:
        """As given on the command line."""
        given: Any = config.getoption
        return cls(
            modes=given("--modes"),
            batch_sizes=given("--batch-size"),
            dtypes=given("--dtype"),
            memory_formats=given("--memory-format"),
            compile_modes=given("--compile"),
            input_sizes=given("--input-size"),
            precision=given("--precision"),
            flush_l2=given("--flush-l2"),
            isolate=given("--isolate") or given("--repeats") > 1,
            repeats=given("--repeats"),
            memory_limit=given("--memory-limit"),
            resume=given("--resume"),
            process=given("--process"),
        )

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """Every point of the matrix by its id. Raises RequestError."""
        found = matrix(
            modes=self.modes,
            batch_sizes=self.batch_sizes,
            dtypes=self.dtypes,
            memory_formats=self.memory_formats,
            compile_modes=self.compile_modes,
            input_sizes=self.input_sizes,
        )
        return {setting.id: setting for setting in found}

    def validate(self) -> None:
        """Raise RequestError where they make no sense on any device."""
        if not 0 < self.precision < 1:
            raise RequestError(f"--precision {self.precision:g}: expected a fraction between 0 and 1, such as 0.01")
        if self.repeats < 1:
            raise RequestError(f"--repeats {self.repeats}: expected a positive number of processes")
        if not 0 <= self.memory_limit < math.inf:
            raise RequestError(f"--memory-limit {self.memory_limit:g}: expected a positive number of gigabytes")
        if not self.settings:
            raise RequestError("nothing to measure: --modes, --dtype and --memory-format each need a name")

    def validate_for(self, device: str) -> None:
        """Raise RequestError where ``device``, which is there, lacks what is asked for."""
        if self.flush_l2 and not device.startswith("cuda"):
            raise RequestError(f"--flush-l2: only CUDA devices have it, and --device is {device}")
        if "bfloat16" in self.dtypes and device.startswith("cuda"):
            import torch

            if not torch.cuda.is_bf16_supported(including_emulation=False):
                name = torch.cuda.get_device_name(device)
                raise RequestError(f"--dtype bfloat16: {name} lacks it; use float16 or float32")
        if device == "cpu" and any(setting.compile for setting in self.settings.values()):
            from torch._inductor.cpp_builder import get_cpp_compiler
            from torch._inductor.exc import InvalidCxxCompiler

            try:
                get_cpp_compiler()
            except InvalidCxxCompiler as error:
                raise RequestError(
                    f"--compile {self.compile_modes}: needs a C++ compiler, and torch finds none that works; "
                    "install g++, or name one in the environment's CXX"
                ) from error
