"""Memory that conformance frees is memory that it takes again.

How deep the caller is doesn't change what calls cost.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from harness.process.memory_reuse import with_room

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

GAPS = """
import resource, torch
from harness.process.memory_reuse import keep_freed_memory, trim_heap
keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
held = [torch.ones(2**20) for _ in range(48)]  # 4 MiB each
def refilled():
    before = faults()
    for i in range(0, 48, 2): held[i] = torch.ones(2**19)  # fits whatever the alignment
    return faults() - before
def empty():
    for i in range(0, 48, 2): held[i] = None
empty()
kept = refilled()
empty()
trimmed = trim_heap()
print(trimmed, kept, refilled())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: malloc_trim is glibc's")
def test_gaps_between_tensors_are_returned_on_demand() -> None:
    ran = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    trimmed, kept, anew = ran.stdout.split()
    pages = 24 * 2**21 // 4096  # of the tensors between others
    assert trimmed == "True"
    assert int(kept) < pages / 2
    assert int(anew) >= int(kept) + 24  # one for each tensor, or more where the kernel's pages are small


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: mallopt is glibc's")
def test_a_network_built_again_takes_few_new_pages() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, faults = ran.stdout.split()
    pages = 4 * 24 * 2**22 // 4096  # of four networks; glibc's defaults take every one of them anew
    assert kept == "True"
    assert int(faults) < pages / 4


CALLS, DEPTHS = 2_000, 300


def leaf(first: int, second: int, third: int) -> int:
    return first + second + third


def faults_of_calls() -> int:
    """New pages that a loop of calls takes: each piece of memory for frames that is mapped anew takes one."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for number in range(CALLS):
        leaf(number, 1, 2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def at_depth(depth: int, call: Callable[[], int]) -> int:
    return call() if depth == 0 else at_depth(depth - 1, call)


@pytest.mark.skipif(sys.implementation.name != "cpython" or sys.platform == "win32", reason="about CPython's memory")
def test_no_depth_maps_memory_for_each_call() -> None:
    assert max(at_depth(depth, faults_of_calls) for depth in range(DEPTHS)) >= CALLS  # what there is to avoid
    assert max(with_room(at_depth, depth, faults_of_calls) for depth in range(DEPTHS)) < CALLS / 10


def test_it_gives_what_the_call_gives_and_raises_what_it_raises() -> None:
    assert with_room(sorted, [3, 1, 2], reverse=True) == [3, 2, 1]
    with pytest.raises(ZeroDivisionError):
        with_room(divmod, 1, 0)


def test_it_can_be_entered_again_within_itself() -> None:
    assert with_room(lambda: with_room(sorted, (2, 3, 1))) == [1, 2, 3]
