"""Records of one comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.measure.contender import Contender, LeftOut, Subject
from harness.measure.setting import Setting
from harness.records.schema import CheckRecord, MeasurementRecord, Quantity


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the records of one comparison have in common. ``flag`` goes to the subject's own only."""

    run: str
    subject: Subject
    setting: Setting
    """Batch and input size are what was measured, not what was asked for."""
    device: str
    batch_size: int
    input_size: int
    test: str
    flag: str
    process: int = 0

    @property
    def comparison(self) -> str:
        """Name of what was measured together; unique in a run and process."""
        measured = replace(self.setting, batch_size=self.batch_size)
        return f"{self.subject.label}:{self.subject.architecture.name}-{measured.id}"

    def suspect(self, reasons: Iterable[str]) -> Rows:
        """The same with further reasons not to rank the subject."""
        return replace(self, flag="; ".join(filter(None, (self.flag, *reasons))))

    def measurement(
        self,
        contender: Contender,
        quantity: Quantity,
        samples: Sequence[float],
        details: Mapping[str, Any] | None = None,
    ) -> MeasurementRecord:
        """Samples of one quantity of one contender."""
        return MeasurementRecord(
            run=self.run,
            suite=self.subject.family.name,
            architecture=self.subject.architecture.name,
            subject=contender.label,
            role=contender.role,
            replicate=contender.replicate,
            comparison=self.comparison,
            quantity=quantity,
            samples=tuple(samples),
            mode=self.setting.mode,
            device=self.device,
            dtype=self.setting.dtype,
            memory_format=self.setting.memory_format,
            compile=self.setting.compile,
            process=self.process,
            batch_size=self.batch_size,
            input_size=self.input_size,
            test=self.test,
            flag=self.flag if contender.role == "subject" else "",
            details={"version": contender.version, "published": self._published(), **(details or {})},
        )

    def _published(self) -> dict[str, float]:
        """The paper's own figures, where its table rounds them, else the exact ones."""
        architecture = self.subject.architecture
        facts = architecture.facts
        return {
            "parameters": facts.get("table2_parameters", architecture.parameters),
            "multiply_adds": facts.get("table2_multiply_adds", architecture.multiply_adds),
            "input_size": architecture.input_size,
        }

    def absence(self, absent: LeftOut) -> CheckRecord:
        """A reference that took no part."""
        return CheckRecord(
            run=self.run,
            suite=self.subject.family.name,
            architecture=self.subject.architecture.name,
            subject=self.subject.label,
            check=f"measured_against_{absent.label}",
            outcome="skipped",
            message=absent.reason,
            test=self.test,
        )
