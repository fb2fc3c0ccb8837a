"""What a run ran on, as a flat dict for ``environment.json``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.process.hardware import cpu_name
from harness.records.runs import Place

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pytest", "pytest-benchmark", "hypothesis")


def environment(command: list[str], device: str) -> dict[str, Any]:
    """Machine, versions, device and source revision. Never raises: what can't be found is None."""
    import psutil
    import torch

    facts: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": device,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "executable": sys.executable,
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = None
    root = Path(__file__).resolve().parents[2]
    facts["git_commit"] = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    facts["git_dirty"] = None if status is None else bool(status)
    return facts


DECISIVE = ("cpu", "gpu", "cores", "threads", "device", "torch", "torchvision", "timm")
"""Facts that times and verdicts depend on."""


def continued(folder: Path, now: dict[str, Any]) -> dict[str, Any]:
    """The environment of a run that is resumed: as it was when it began, and when and in what it went on."""
    before, _ = Place(folder).environment()
    changed = {f: [before.get(f), now[f]] for f in DECISIVE if f in before and before[f] != now[f]}
    notes = [f"resumed with another {fact}: {was} before, {new} now" for fact, (was, new) in changed.items()]
    resumed = [*before.get("resumed", []), now["started"]]
    warnings = [*before.get("warnings", []), *notes]
    known = {k: v for k, v in before.items() if k != "finished"}
    return {**now, **known, "resumed": resumed, **({"warnings": warnings} if warnings else {})}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
