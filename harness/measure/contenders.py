"""Who is measured against whom: the subject, the subject once more, and every reference that has the architecture."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn

from harness.bench.bench import seeded
from harness.errors import SubjectError, first_line
from harness.measure.setting import Setting
from harness.measure.workload import CLASSES, WORKLOADS, Batch, Workload, liven
from harness.subjects.facts import Architecture, Family
from harness.subjects.outputs import describe

SEED = 0


class Subject(Protocol):
    """An implementation under test, as `harness.subjects.subject.Subject` and `harness.bench.bench.Bench` are."""

    @property
    def label(self) -> str:
        """Name of the implementation."""
        ...

    @property
    def who(self) -> str:
        """Name of the implementation and the architecture."""
        ...

    @property
    def architecture(self) -> Architecture:
        """Published facts."""
        ...

    @property
    def family(self) -> Family:
        """Where the references come from."""
        ...

    def build(self, num_classes: int = ...) -> nn.Module:
        """A new module."""
        ...


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One instance of one implementation, with its workload."""

    label: str
    role: Literal["subject", "reference"]
    replicate: int = 0
    version: str = ""
    work: Workload
    time_to_first: float
    """Seconds from calling the factory to the first output; compiling included, giving values to zeros left out."""
    compile_time: float | None = None
    """Seconds of the first step of a compiled model, which is mostly compiling; None where nothing is compiled.

    Nothing of an earlier compilation is used, but by whoever runs the same Python code as one before it in the
    comparison, as a replicate does. The first of a process also loads the compiler.
    """

    @property
    def key(self) -> str:
        """Unique name within a comparison."""
        again = f"#{self.replicate}" if self.replicate else ""
        return f"{self.role}:{self.label}{again}"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A reference that can't take part, and why."""

    label: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A workload that has run once, and how long that took."""

    work: Workload
    time_to_first: float
    compile_time: float | None


def subject_contenders(subject: Subject, setting: Setting, batch: Batch) -> Iterator[Contender]:
    """The subject and its replicate, built one after the other and tried once.

    Raises SubjectError saying what is wrong where it can't be built or run.
    """
    if setting.compile:
        # Dynamo keeps what it compiled for a function: after a few settings it would go on without compiling, and after
        # another image size it would compile for any.
        torch.compiler.reset()
    with _compiling_afresh(setting):
        for replicate in (0, 1):
            ready = _prepare(lambda: subject.build(num_classes=CLASSES), setting, batch, subject.who)
            yield Contender(label=subject.label, role="subject", replicate=replicate, **vars(ready))


def reference_contenders(subject: Subject, setting: Setting, batch: Batch) -> Iterator[Contender | LeftOut]:
    """Each reference of the subject's family, built and tried once, or why it is left out."""
    name = subject.architecture.name
    try:
        references = subject.family.references()
    except ImportError as error:
        yield LeftOut(label="references", reason=f"can't be imported: {first_line(error)}")
        return
    for reference in references:
        title = f"{reference.library} {reference.version}"
        try:
            with _compiling_afresh(setting):
                ready = _prepare(partial(reference.build, name), setting, batch, f"{name} of {reference.library}")
        except KeyError:
            yield LeftOut(label=reference.library, reason=f"{title} has no {name}")
        except Exception as error:  # whatever a library does wrong, the subject is still measured
            reason = f"{title}: {type(error).__name__}: {first_line(error)}"
            yield LeftOut(label=reference.library, reason=reason)
        else:
            yield Contender(label=reference.library, role="reference", version=reference.version, **vars(ready))


def _prepare(build: Callable[[], nn.Module], setting: Setting, batch: Batch, who: str) -> Ready:
    """Build a model as the setting asks, and let it do one step. Raises SubjectError naming mode and input."""
    start = time.perf_counter()
    with seeded(SEED):
        model = build()
    built = time.perf_counter()
    liven(model)
    placing = time.perf_counter()
    memory_format = torch.channels_last if setting.memory_format == "channels_last" else torch.contiguous_format
    model = model.to(device=batch.images.device, memory_format=memory_format)  # type: ignore[call-overload]
    dtype: torch.dtype = getattr(torch, setting.dtype)
    kind = WORKLOADS[setting.mode]
    where = f"{who}: {'inference' if setting.mode == 'infer' else 'training step'} on {describe(batch.images)}"
    work = kind(model, batch, dtype)
    _look(work, where)
    first = time.perf_counter() - placing + built - start
    if not setting.compile:
        _step(work, where)
        return Ready(work=work, time_to_first=first, compile_time=None)
    work = kind(model, batch, dtype, _compiled(model, setting.compile))
    compile_time = _step(work, f"{where}, compiled with mode {setting.compile},")
    return Ready(work=work, time_to_first=first + compile_time, compile_time=compile_time)


@contextmanager
def _compiling_afresh(setting: Setting) -> Iterator[None]:
    """No code on the disk or in memory that the compiler could take for what it is to compile.

    A reference's graph is often the subject's: it would be compiled in a tenth of the time, by being the second.
    """
    if not setting.compile:
        yield
        return
    from torch._inductor.utils import clear_caches  # takes seconds to import

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        triton = str(Path(folder) / "triton")
        with patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder, TRITON_CACHE_DIR=triton):
            clear_caches()
            yield
            clear_caches()


def _compiled(model: nn.Module, mode: str) -> Callable[[Tensor], Any]:
    compiled: Callable[[Tensor], Any] = torch.compile(model, mode=mode)
    return compiled


def _step(work: Workload, where: str) -> float:
    """Seconds of a step, waited for. Raises SubjectError."""
    start = time.perf_counter()
    try:
        work()
        if work.batch.images.device.type == "cuda":
            torch.cuda.synchronize(work.batch.images.device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise SubjectError(f"{where} raised {type(error).__name__}: {first_line(error)}") from error
    return time.perf_counter() - start


def _look(work: Workload, where: str) -> None:
    """Raise SubjectError where the output isn't one row of logits per image."""
    expected = (work.batch.size, CLASSES)
    try:
        output = work.output()
    except Exception as error:
        raise SubjectError(f"{where} raised {type(error).__name__}: {first_line(error)}") from error
    if tuple(output.shape) != expected:
        raise SubjectError(f"{where} gave {describe(output)}; expected a tensor of shape {expected}")
