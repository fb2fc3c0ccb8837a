"""Where a task runs: node, devices, cores."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any


def placement(*, node: str, gpus: Sequence[str], cores: Sequence[int]) -> dict[str, Any]:
    """Facts for the records: ``kind`` is what has to be the same for two times to be compared."""
    names = [gpu_facts(g) for g in gpus]
    return {
        "node": node[:12],
        "host": socket.gethostname(),
        "gpus": list(gpus),
        "gpu": names[0][0] if names else "",
        "driver": names[0][1] if names else "",
        "cores": list(cores),
        "kind": names[0][0] if names else cpu_name(),
    }


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


@cache
def cpu_name() -> str:
    """The processor's name, or else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or os.name
