"""Who is measured against whom: the subject, the subject once more, and every reference that has the architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from harness.architecture import Architecture, Family
from harness.measure.workload import CLASSES, WORKLOADS, Batch, Workload, liven, logits
from harness.outputs import describe
from harness.records import Mode
from harness.subjects import SubjectError, first_line
from harness.workbench import seeded

SEED = 0


class Subject(Protocol):
    """An implementation under test, as `harness.subjects.Subject` and `harness.workbench.Workbench` are."""

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


def subject_contenders(subject: Subject, mode: Mode, batch: Batch) -> Iterator[Contender]:
    """The subject and its replicate, built one after the other and tried once.

    Raises SubjectError saying what is wrong where it can't be built or run.
    """
    for replicate in (0, 1):
        with seeded(SEED):
            model = subject.build(num_classes=CLASSES)
        work = WORKLOADS[mode](_placed(model, batch), batch)
        _try(work, subject.who, mode)
        yield Contender(label=subject.label, role="subject", replicate=replicate, work=work)


def reference_contenders(subject: Subject, mode: Mode, batch: Batch) -> Iterator[Contender | LeftOut]:
    """Each reference of the subject's family, built and tried once, or why it is left out."""
    name = subject.architecture.name
    try:
        references = subject.family.references()
    except ImportError as error:
        yield LeftOut(label="references", reason=f"can't be imported: {first_line(error)}")
        return
    for reference in references:
        try:
            with seeded(SEED):
                model = reference.build(name)
            work = WORKLOADS[mode](_placed(model, batch), batch)
            _try(work, f"{name} of {reference.library}", mode)
        except KeyError:
            yield LeftOut(label=reference.library, reason=f"{reference.library} {reference.version} has no {name}")
        except Exception as error:  # whatever a library does wrong, the subject is still measured
            what = f"{type(error).__name__}: {first_line(error)}"
            yield LeftOut(label=reference.library, reason=f"{reference.library} {reference.version}: {what}")
        else:
            yield Contender(label=reference.library, role="reference", version=reference.version, work=work)


def _placed(model: nn.Module, batch: Batch) -> nn.Module:
    liven(model)
    return model.to(batch.images.device)


def _try(work: Workload, who: str, mode: Mode) -> None:
    """One look at the output, then one step. Raises SubjectError naming mode and input."""
    where = f"{who}: {'inference' if mode == 'infer' else 'training step'} on {describe(work.batch.images)}"
    expected = (work.batch.size, CLASSES)
    try:
        with torch.inference_mode():
            output = logits(work.model(work.batch.images))
        if tuple(output.shape) == expected:
            work()
    except Exception as error:
        raise SubjectError(f"{where} raised {type(error).__name__}: {first_line(error)}") from error
    if tuple(output.shape) != expected:
        raise SubjectError(f"{where} gave {describe(output)}; expected a tensor of shape {expected}")
