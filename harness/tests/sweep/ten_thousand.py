"""What 10,000 tasks of no length cost: ``python -m harness.tests.sweep.ten_thousand [COUNT]``.

Prints the time of each task beyond its own, and what the driver takes of memory and of a core.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from harness.records.run_store import RunStore
from harness.sweep.dispatch import Dispatch, State
from harness.sweep.merged_run import MergedRun
from harness.sweep.staging import ROOT
from harness.tests.sweep import stubs


def main(count: int) -> None:
    """Run and print."""
    import ray

    from harness.sweep.cluster import connect
    from harness.sweep.ray_engine import RayEngine

    connect("local", working_directory=None, environment={"PYTHONPATH": str(ROOT)})
    try:
        driver, most = psutil.Process(), 0

        def watch(state: State) -> None:
            nonlocal most
            most = max(most, driver.memory_info().rss)

        with TemporaryDirectory() as folder:
            dispatch = Dispatch(
                stubs.tasks(count),
                RayEngine(stubs.order(), execute=stubs.at_once),
                MergedRun(RunStore(Path(folder), "run")),
                watch=watch,
            )
            wall, core = time.monotonic(), time.process_time()
            dispatch.run()
            wall, core = time.monotonic() - wall, time.process_time() - core
    finally:
        ray.shutdown()
    assert dispatch.merged.outcomes == {"passed": count}
    each, own = 1e3 * wall / count, 1e3 * core / count
    print(
        f"{count} tasks: {each:.1f} ms each, of which the driver computes {own:.1f} ms "
        f"(1 % of a core at {own / 10:.2f} s between ends of tasks); at most {most / 1e6:.0f} MB in the driver"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
