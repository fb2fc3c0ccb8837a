"""How the history page takes a thousand runs of a thousand rows: ``python -m reports.tests.thousand_runs``.

Makes 250 and 1,000 runs in a temporary folder, and for each loads and writes the page in a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.records.codec import to_row
from harness.records.schema import Record
from reports.tests.made_runs import check, latency, measured

ROWS = 1000
VARIANTS = 40
"""Different nights; the runs take turns, which is quicker than to make each anew."""
SERIES = 100
"""Architectures, each with a subject, its A/A twin and one reference, memory and checks: ten rows."""


def night(factor: float, random: np.random.Generator) -> bytes:
    """The records of one run, in which the subject of the first architectures takes ``factor`` times as long."""
    rows: list[Record] = []
    for number in range(SERIES):
        name = f"model{number}"
        typical = 0.02 * (factor if number < 5 else 1.0) * float(np.exp(0.005 * random.standard_normal()))
        rows += [
            latency(typical, architecture=name),
            latency(typical, architecture=name, replicate=1),
            latency(0.02, architecture=name, subject="timm", role="reference"),
            measured("peak_memory", (98e6,), architecture=name),
            *(check(f"check{i}", architecture=name) for i in range(ROWS // SERIES - 4)),
        ]
    return b"".join(json.dumps(to_row(row)).encode() + b"\n" for row in rows)


def make_runs(results: Path, amount: int) -> None:
    """So many runs, one a day; five series get a tenth slower half way."""
    random = np.random.default_rng(0)
    halves = [[night(factor, random) for _ in range(VARIANTS)] for factor in (1.0, 1.1)]
    for index in range(amount):
        started = np.datetime64("2026-01-01T00:00:00") + np.timedelta64(index, "D")
        folder = results / f"run{index:05}"
        folder.mkdir(parents=True)
        (folder / "records.jsonl").write_bytes(halves[2 * index // amount][index % VARIANTS])
        facts = {"started": str(started), "finished": str(started), "git_commit": f"commit{index}"}
        (folder / "environment.json").write_text(json.dumps(facts))


def render(results: str) -> None:
    """Load and write the page of ``results``; prints wall seconds and peak resident bytes."""
    started = time.perf_counter()
    from reports.frames.history import history
    from reports.pages.history_page import write_history

    page = write_history(history(results), Path(results) / "history.html", results)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "page": page.stat().st_size}))


def main() -> None:
    """Both sizes, and how the larger grew."""
    found = {}
    for amount in (250, 1000):
        with tempfile.TemporaryDirectory() as folder:
            make_runs(Path(folder), amount)
            command = [sys.executable, "-m", "reports.tests.thousand_runs", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[amount] = json.loads(done.stdout)
        one = found[amount]
        print(
            f"{amount:,} runs x {ROWS:,} rows: {one['seconds']:.1f} s, peak memory {one['peak'] / 1e6:,.0f} MB, "
            f"page {one['page'] / 1e6:.1f} MB",
            flush=True,
        )
    ratio = found[1000]["seconds"] / found[250]["seconds"]
    print(f"four times the runs took {ratio:.1f} times as long")


if __name__ == "__main__":
    render(sys.argv[1]) if len(sys.argv) > 1 else main()
