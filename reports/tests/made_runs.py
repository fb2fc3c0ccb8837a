"""Runs made by hand, with every kind of outcome and every kind of damage."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.records.codec import to_row
from harness.records.schema import SCHEMA, CheckRecord, MeasurementRecord, Outcome, Quantity, Record
from harness.statistics.ratios import INSTANCE_SCATTER, POOLED

SCRIPT = "<script>alert(1)</script>"
LONG = "x" * 300
ENVIRONMENT = {
    "started": "2026-01-01T12:00:00+00:00",
    "finished": "2026-01-01T12:05:00+00:00",
    "command": "pytest suites/ --benchmark",
    "python": "3.12.1",
    "cpu": f"A CPU {SCRIPT}",
    "cores": 2,
    "memory_bytes": 8_000_000_000,
    "torch": "2.9.0",
    "torchvision": "0.24.0",
    "timm": "1.0.20",
    "gpu": None,
    "warnings": ["the clock is coarse"],
}
SHIFTS = (-0.02, 0.0, 0.01, -0.01, 0.02, 0.0, 0.03, -0.03, 0.01, -0.01, 0.0, 0.005)
"""How far each round lies from the typical one: what slows a round slows all of it."""


ROUNDS_SCATTER = 2.5706 * (0.004 * math.sqrt(12 / 11)) * math.sqrt(12) / 6
A_A = POOLED * math.hypot(ROUNDS_SCATTER, 1.95996 * math.sqrt(2) * INSTANCE_SCATTER)
"""Of twelve rounds whose log ratios are 0.4 % to either side in turns: six are kept, Student's t has five degrees."""


def check(
    name: str,
    outcome: Outcome = "passed",
    *,
    subject: str = "ours",
    architecture: str = "resnet18",
    message: str = "",
    reproduce: str = "",
    suite: str = "resnet",
    details: Mapping[str, Any] | None = None,
) -> CheckRecord:
    return CheckRecord(
        run="made",
        suite=suite,
        architecture=architecture,
        subject=subject,
        check=name,
        outcome=outcome,
        message=message,
        reproduce=reproduce,
        details=details or {},
    )


def latency(
    typical: float,
    *,
    subject: str = "ours",
    role: str = "subject",
    architecture: str = "resnet18",
    replicate: int = 0,
    rounds: int = 12,
    jitter: float = 0.0,
    **more: Any,
) -> MeasurementRecord:
    """Times of ``rounds`` rounds around ``typical`` seconds; ``jitter`` alternates the sign round by round."""
    times = tuple(typical * (1 + SHIFTS[i % 12]) * (1 + jitter * (-1) ** i) for i in range(rounds))
    return measured(
        "latency", times, subject=subject, role=role, architecture=architecture, replicate=replicate, **more
    )


def measured(quantity: Quantity, samples: tuple[float, ...], **more: Any) -> MeasurementRecord:
    known: dict[str, Any] = {"suite": "resnet", "architecture": "resnet18", "subject": "ours", "batch_size": 4}
    known |= more
    known.setdefault("comparison", f"{known['architecture']}-{known.get('mode', 'infer')}-{known.get('group', '')}")
    known.pop("group", None)
    return MeasurementRecord(run="made", quantity=quantity, samples=samples, **known)


def compared(architecture: str, mode: str, ours: float, *, subject: str = "ours", **more: Any) -> list[Record]:
    """A subject, its A/A twin and two references that take 20 ms and 25 ms, with memory and arithmetic."""
    where: dict[str, Any] = {"architecture": architecture, "mode": mode, "group": subject, **more}
    references = {"torchvision": 0.020, "timm": 0.025}
    rows: list[Record] = [
        latency(ours, subject=subject, **where),
        latency(ours, subject=subject, replicate=1, jitter=0.004, **where),
        measured("peak_memory", (98e6,), subject=subject, **where),
        measured("flops", (14.5e9,), subject=subject, **where),
        measured("parameters", (11_689_512,), subject=subject, **where),
    ]
    peers = where | {"role": "reference", "flag": ""}
    for name, typical in references.items():
        rows += [
            latency(typical, subject=name, jitter=0.002, **peers),
            measured("peak_memory", (100e6,), subject=name, **peers),
            measured("flops", (14.5e9,), subject=name, **peers),
        ]
    return rows


def write_run(
    folder: Path, records: list[Record], environment: Mapping[str, Any] | None = ENVIRONMENT, tail: bytes = b""
) -> Path:
    folder.mkdir(parents=True)
    lines = b"".join(json.dumps(to_row(record)).encode() + b"\n" for record in records)
    (folder / "records.jsonl").write_bytes(lines + tail)
    if environment is not None:
        (folder / "environment.json").write_text(json.dumps(environment))
    return folder


LAYERS = [
    {
        "kind": "Conv2d",
        "subject": "conv1",
        "reference": "stem.conv",
        "subject_shape": [64, 3, 7, 7],
        "reference_shape": [64, 3, 7, 7],
        "subject_hyper": "stride 2",
        "reference_hyper": "stride 2",
        "error": 1e-15,
    },
    {"kind": "BatchNorm2d", "subject": f"bn1 {SCRIPT}", "reference": "stem.bn", "error": 0.0123},
]


def every_outcome() -> list[Record]:
    """Pass, fail, skip, expected failure, error, flagged, hostile names, and a subject without a reference."""
    names = ("shapes", "parameters", "flops", "skip_gradient", "eval_parity", "train_parity", "torch_compile")
    rows: list[Record] = [
        check(name, architecture=architecture, subject=subject)
        for subject in ("ours", "torchvision.models")
        for architecture in ("resnet18", "resnet50")
        for name in names[:-1]
    ]
    rows += [
        check("torch_compile", "skipped", message="no C++ compiler on this machine", architecture=a)
        for a in ("resnet18", "resnet50")
    ]
    rows += [
        check("shapes", subject="mine"),
        check(
            "skip_gradient",
            "failed",
            subject="mine",
            message=f"mine resnet18: residual join 3 is detached\nexpected gradient 1.0\ngot 0.0 {SCRIPT}",
            reproduce="pytest 'suites/resnet/test_resnet.py::test_conformance[mine-resnet18-skip_gradient]'",
            details={"join": 3, "error": 0.25, "layers": LAYERS},
        ),
        check("eval_parity", "error", subject="mine", message="RuntimeError: größer als der Speicher 大きすぎる"),
        check("parameters", "xfailed", subject="published", architecture="resnet50", message="is a ResNet-34 in truth"),
        check(f"check{SCRIPT}", "failed", subject=SCRIPT, architecture=LONG, message=f"</pre></script>{SCRIPT}"),
    ]
    rows += compared("resnet18", "infer", 0.018) + compared("resnet18", "train", 0.0202)
    rows += compared("resnet50", "infer", 0.030) + compared("resnet50", "train", 0.0249)
    rows += compared("resnet18", "infer", 0.010, subject="mine")
    rows += compared("resnet18", "infer", 0.012, subject=f"</script>{SCRIPT}", flag=f"failed parity {SCRIPT}")
    rows.append(latency(0.05, subject="alone", architecture=LONG, comparison="alone"))
    rows.append(
        measured("matmul_peak", (1.1e12, 1.2e12, 1.3e12), subject="machine", role="machine", comparison="machine")
    )
    return rows


def compound_scaling() -> list[Record]:
    published = {
        "efficientnet_b0": (5_288_548, 0.386e9, 224, 0.040),
        "efficientnet_b1": (7_794_184, 0.687e9, 240, 0.070),
        "efficientnet_b2": (9_109_994, 1.088e9, 260, 0.105),
    }
    rows: list[Record] = []
    for name, (parameters, multiply_adds, size, typical) in published.items():
        facts = {"parameters": parameters, "multiply_adds": multiply_adds, "input_size": size}
        where: dict[str, Any] = {"suite": "efficientnet", "architecture": name, "input_size": size, "batch_size": 1}
        where["details"] = {"published": facts}
        rows += [
            latency(typical, **where),
            measured("parameters", (float(parameters),), **where),
            measured("flops", (2.04 * multiply_adds,), **where),
        ]
    return rows


KILL_MATRIX = {
    "checks": ["skip_gradient", "eval_parity"],
    "mutants": [
        {
            "name": f"detached {SCRIPT}",
            "family": "resnet",
            "bug": "the shortcut is detached",
            "issue": "",
            "expected_check": "skip_gradient",
            "killed_by": ["skip_gradient", "eval_parity"],
            "seconds": 1.5,
        },
        {
            "name": "survivor",
            "family": "resnet",
            "bug": "eps",
            "issue": None,
            "expected_check": "eval_parity",
            "killed_by": [],
            "seconds": 2.0,
        },
        {
            "name": "elsewhere",
            "family": "vit",
            "bug": "eps",
            "expected_check": "eval_parity",
            "killed_by": ["skip_gradient"],
            "seconds": 2.0,
        },
    ],
    "correct": [
        {"name": "renamed", "family": "resnet", "false_alarms": []},
        {"name": "flattened", "family": "resnet", "false_alarms": ["skip_gradient"]},
    ],
}


def full_run(folder: Path) -> Path:
    """Every outcome, compound scaling, a kill matrix, one corrupt line and a torn last one."""
    tail = b'{"schema": 1, "kind": "riddle"}\n{"schema": 1, "kind": "check", "run": "ma'
    write_run(folder, every_outcome() + compound_scaling(), {**ENVIRONMENT, "finished": None}, tail)
    (folder / "mutants.json").write_text(json.dumps(KILL_MATRIX))
    return folder


def newer_row() -> bytes:
    return json.dumps({**to_row(check("shapes")), "schema": SCHEMA + 6}).encode() + b"\n"


def before_the_changes(folder: Path) -> Path:
    """The full run's predecessor, with one change of each kind planted.

    Then `ours` was 1.3 times slower on resnet50 inference and took half the memory in resnet18 training; `shapes` of
    `mine` failed and its `skip_gradient` passed; a check `retired` existed; `torch_compile` of resnet18 ran; and
    `flops` of torchvision.models wasn't there.
    """
    rows: list[Record] = []
    for record in every_outcome():
        if isinstance(record, MeasurementRecord):
            where = (record.subject, record.architecture, record.mode, record.quantity)
            factor = {
                ("ours", "resnet50", "infer", "latency"): 1.3,
                ("ours", "resnet18", "train", "peak_memory"): 0.5,
            }.get(where, 1.0)
            rows.append(replace(record, samples=tuple(factor * s for s in record.samples)))
            continue
        name = (record.subject, record.architecture, record.check)
        if name == ("torchvision.models", "resnet18", "flops"):
            continue
        planted: dict[tuple[str, str, str], Outcome] = {
            ("mine", "resnet18", "shapes"): "failed",
            ("mine", "resnet18", "skip_gradient"): "passed",
            ("ours", "resnet18", "torch_compile"): "passed",
        }
        rows.append(replace(record, outcome=planted.get(name, record.outcome)))
    rows.append(check("retired"))
    return write_run(folder, rows, {**ENVIRONMENT, "timm": "1.0.19"})
