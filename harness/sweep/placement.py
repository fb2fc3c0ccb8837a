"""Where a task runs: node, devices, cores."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from harness.process.hardware import cpu_name, gpu_facts


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
