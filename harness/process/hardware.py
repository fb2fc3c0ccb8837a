"""The processor, the GPUs, and what `--device` names."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

from harness.errors import RequestError

SEEDS = 2**31
"""What NumPy's generator takes, with room for the sums that the checks make."""


def device_named(asked: str) -> str:
    """``--device`` as given, and for "auto" what there is. Raises RequestError for one that is not there."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise RequestError(f"--device {asked}: not a device; known: auto, cpu, cuda, cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(f"--device {asked}: torch {torch.__version__} sees no CUDA device; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"--device {asked}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"--device {asked}: known: auto, cpu, cuda, cuda:N")
    return asked


@cache
def cpu_name() -> str:
    """The processor's name, or else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or os.name


@cache
def gpu_facts(identifier: str) -> tuple[str, str]:
    """Name and driver version of a GPU by its index or UUID; empty where the driver's tool can't say."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i", identifier]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        name, driver = done.stdout.strip().splitlines()[0].split(",", 1)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return "GPU", ""
    return name.strip(), driver.strip()
