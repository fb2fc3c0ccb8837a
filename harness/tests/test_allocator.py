"""Memory that conformance frees is memory that it takes again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from harness.process.memory_reuse import keep_freed_memory
kept = keep_freed_memory()
def network(): return [torch.ones(2**20) for _ in range(24)]  # 4 MiB each
network()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4): network()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: mallopt is glibc's")
def test_a_network_built_again_takes_few_new_pages() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, faults = ran.stdout.split()
    pages = 4 * 24 * 2**22 // 4096  # of four networks; glibc's defaults take every one of them anew
    assert kept == "True"
    assert int(faults) < pages / 4
