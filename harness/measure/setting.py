"""What one benchmark is asked to do, read from the options. Imports no torch: listing tests has to be quick."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from harness.errors import RequestError
from harness.records.schema import Mode

AUTO: Literal["auto"] = "auto"
DTYPES = ("float32", "bfloat16", "float16")
"""float32 as the model is; the others by `torch.autocast`."""
MEMORY_FORMATS = ("contiguous", "channels_last")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

BatchSize = int | Literal["auto"] | None
"""None is the device's default."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of the matrix that is measured."""

    mode: Mode
    batch_size: BatchSize = None
    dtype: str = "float32"
    memory_format: str = "contiguous"
    compile: str = ""
    """Mode of `torch.compile`; empty for none."""
    input_size: int | None = None
    """Side of the images in pixels; None for the architecture's own."""

    @property
    def id(self) -> str:
        """The mode and whatever isn't the default, as tests are named: ``infer-b8-bfloat16``."""
        parts: list[str] = [self.mode]
        if self.batch_size is not None:
            parts.append(f"b{self.batch_size}")
        if self.input_size is not None:
            parts.append(f"{self.input_size}px")
        if self.dtype != "float32":
            parts.append(self.dtype)
        if self.memory_format != "contiguous":
            parts.append(self.memory_format)
        if self.compile:
            parts.append(f"compile_{self.compile}")
        return "-".join(parts)


def matrix(
    *,
    modes: str = "infer,train",
    batch_sizes: str = "",
    dtypes: str = "float32",
    memory_formats: str = "contiguous",
    compile_modes: str = "",
    input_sizes: str = "",
) -> tuple[Setting, ...]:
    """Every combination of comma-separated lists. Raises RequestError naming the option and what it takes.

    An empty list of batch sizes, compile modes or input sizes stands for the default.
    """
    lists = (
        [("--modes", m, get_args(Mode)) for m in _parts(modes)]
        + [("--dtype", d, DTYPES) for d in _parts(dtypes)]
        + [("--memory-format", f, MEMORY_FORMATS) for f in _parts(memory_formats)]
        + [("--compile", c, ("none", *COMPILE_MODES)) for c in _parts(compile_modes)]
    )
    for option, value, known in lists:
        if value not in known:
            raise RequestError(f"{option} {value}: known: {', '.join(known)}")
    for option, given in (("--modes", modes), ("--dtype", dtypes), ("--memory-format", memory_formats)):
        if not _parts(given):
            raise RequestError(f"{option}: expected at least one name")
    sizes: list[BatchSize] = [_batch_size(b) for b in _parts(batch_sizes)]
    pixels: list[int | None] = [_positive("--input-size", p) for p in _parts(input_sizes)]
    compiled = ["" if c == "none" else c for c in _parts(compile_modes)]
    return tuple(
        Setting(mode=m, batch_size=b, dtype=d, memory_format=f, compile=c, input_size=p)  # type: ignore[arg-type]
        for m, b, p, d, f, c in product(
            _parts(modes), sizes or [None], pixels or [None], _parts(dtypes), _parts(memory_formats), compiled or [""]
        )
    )


def _parts(given: str) -> list[str]:
    """The parts of a comma-separated list, each once."""
    return list(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))


def _batch_size(text: str) -> BatchSize:
    return AUTO if text == AUTO else _positive("--batch-size", text)


def _positive(option: str, text: str) -> int:
    known = f"a positive integer{' or auto' if option == '--batch-size' else ''}"
    # Digits only: int() would also take "+8", "1_000" and the digits of other scripts.
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise RequestError(f"{option} {text}: expected {known}")
    return int(text)
