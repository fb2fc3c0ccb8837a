"""One sweep from its arguments to its exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError, RunError, StoreError
from harness.records.codec import read_records
from harness.records.run_store import RunStore, new_run_id
from harness.records.runs import RECORDS, resolve
from harness.records.verdicts import BAD
from harness.sweep.merged_run import MergedRun
from harness.sweep.plan import Estimate, collect, estimate, plan
from harness.sweep.progress import Progress, duration
from harness.sweep.staging import ROOT, absolute, staged
from harness.sweep.tasks import Task, read_plan, to_json

if TYPE_CHECKING:
    from harness.sweep.dispatch import Dispatch

PLAN = "tasks.json"
INTERRUPTED = 2
BUDGET = 15.0
"""Seconds of a benchmark where none are given."""


def dry_run(given: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print the tasks, and what they would roughly take on one slot after another."""
    options, rows = collect(absolute(rest), ROOT)
    tasks = plan(rows, repeats=given.repeats)
    budget = _budget(options)
    estimates = [estimate(task, budget=budget) for task in tasks]
    width = max(len(task.key) for task in tasks)
    for task, guess in zip(tasks, estimates, strict=True):
        print(f"{task.key:<{width}}  {len(task.cases):>3} tests  ~{duration(guess.seconds):>6}  {_size(guess)}")
    total = sum(guess.seconds for guess in estimates)
    largest = max(estimates, key=lambda guess: guess.memory)
    tests = sum(len(task.cases) for task in tasks)
    print(
        f"{len(tasks)} tasks, {tests} tests; about {duration(total)} one after the other; "
        f"the largest takes about {_size(largest).strip()}"
    )
    return 0


def sweep(given: argparse.Namespace, rest: Sequence[str]) -> int:
    """Plan, connect, check, run, sum up."""
    url = given.results if "://" in given.results else ""
    results = Path("results" if url else given.results)
    if given.resume:
        folder_before, rest = _earlier(results, given.resume)
        results, given.resume = folder_before.parent, folder_before.name
    with _work(given.address, rest) as (folder, arguments):
        import ray

        from harness.sweep import cluster
        from harness.sweep.dispatch import Dispatch
        from harness.sweep.ray_engine import DesertedError, Order, RayEngine

        environment = {"PYTHONPATH": str(ROOT)} if folder is None else {}
        cluster.connect(given.address, working_directory=folder, environment=environment)
        try:
            found = cluster.nodes()
            gpus = given.gpus_per_task
            cpus = given.cpus_per_task or _cores(found, benchmark="--benchmark" in rest, gpus=gpus)
            cluster.check_room(found, cpus=cpus, gpus=gpus)
            facts = cluster.survey(found, results_url=url, cpus=cpus, gpus=gpus)
            directory = "" if folder is not None else str(ROOT)
            options, tasks = _plan(given, results, arguments, _on_a_worker(directory))
            store = RunStore(results, given.resume or new_run_id(), resume=bool(given.resume))
            known = read_records(store.folder / RECORDS) if given.resume else ()
            about = _environment(given, found, facts)
            _write_head(store, about, tasks, rest)
            order = Order(
                options=tuple(options),
                directory=directory,
                cpus=cpus,
                gpus=gpus,
                timeout=given.task_timeout,
                run=store.run,
                results_url=url,
            )
            print(f"{len(tasks)} tasks on {len(found)} nodes; records: {store.folder / RECORDS}", flush=True)
            here = dict(zip(arguments, rest, strict=True))  # the subjects' files are elsewhere on the workers
            merged = MergedRun(
                store,
                known,
                options=[here.get(option, option) for option in options],
                several_kinds=len({f.kind for f in facts}) > 1,
            )
            dispatch = Dispatch(tasks, RayEngine(order), merged, attempts=given.attempts, watch=Progress())
            why = ""
            try:
                dispatch.run()
            except KeyboardInterrupt:
                why = "interrupted"
            except DesertedError as error:
                why = str(error)
            if not why:
                about["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
                store.environment(about)
            if url:
                _upload(url, store)
        except (StoreError, RunError) as error:
            raise RequestError(str(error)) from None
        finally:
            ray.shutdown()
    return _sum_up(store, merged, dispatch, why)


@contextmanager
def _work(address: str, rest: Sequence[str]) -> Iterator[tuple[Path | None, list[str]]]:
    """What has to travel, which on one machine is nothing, and the arguments as the workers read them."""
    if address == "local":
        yield None, absolute(rest)
    else:
        with staged(rest) as (folder, arguments):
            yield folder, arguments


def _earlier(results: Path, run: str) -> tuple[Path, list[str]]:
    """Folder and arguments of an interrupted sweep. Raises RequestError."""
    try:
        folder = resolve(run, results)
        _, rest = read_plan(folder / PLAN)
    except (RunError, OSError, ValueError, KeyError, TypeError):
        raise RequestError(f"--resume {run}: no sweep of that name in {results}") from None
    return folder, list(rest)


def _on_a_worker(directory: str) -> Callable[[Sequence[str]], tuple[list[str], list[dict[str, Any]]]]:
    """`collect`, run where the subjects have to be importable: the driver needs neither them nor torch."""

    def ask(arguments: Sequence[str]) -> tuple[list[str], list[dict[str, Any]]]:
        import ray

        try:
            listed: tuple[list[str], list[dict[str, Any]]] = ray.get(
                ray.remote(num_cpus=0, max_retries=2)(_collect).remote(list(arguments), directory)
            )
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RequestError):
                raise RequestError(f"on a worker: {error.cause}") from None
            raise
        return listed

    return ask


def _collect(arguments: Sequence[str], directory: str) -> tuple[list[str], list[dict[str, Any]]]:
    return collect(arguments, Path(directory or Path.cwd()))


def _plan(
    given: argparse.Namespace,
    results: Path,
    arguments: Sequence[str],
    ask: Callable[[Sequence[str]], tuple[list[str], list[dict[str, Any]]]],
) -> tuple[list[str], tuple[Task, ...]]:
    options, rows = ask(arguments)
    if given.resume:
        return options, read_plan(results / given.resume / PLAN)[0]
    return options, plan(rows, repeats=given.repeats)


def _cores(found: Sequence[Any], *, benchmark: bool, gpus: float) -> int:
    """Cores of a task where nobody said: one, or for timings on CPUs a whole node."""
    if not benchmark or gpus:
        return 1
    return max(1, int(min((node.cpus for node in found if node.cpus), default=1)))


def _environment(given: argparse.Namespace, found: Sequence[Any], facts: Sequence[Any]) -> dict[str, Any]:
    """What the sweep ran on: the first worker's own account, and every node's."""
    import ray

    from harness.records.environment import environment

    device = "cuda" if given.gpus_per_task else "cpu"
    ask = ray.remote(num_cpus=0, num_gpus=min(1, given.gpus_per_task))(environment)
    about: dict[str, Any] = ray.get(ask.remote(sys.argv, device))
    about["nodes"] = [f"{n.host} ({n.id[:12]}): {n.cpus:g} cores, {n.gpus:g} GPUs" for n in found]
    about |= {"ray": facts[0].versions["ray"] if facts else None, "cpus_per_task": given.cpus_per_task or None}
    return about


def _write_head(store: RunStore, about: dict[str, Any], tasks: Sequence[Task], rest: Sequence[str]) -> None:
    store.environment(about)
    try:
        (store.folder / PLAN).write_text(to_json(tasks, rest))
    except OSError as error:
        raise StoreError(f"{store.folder / PLAN}: {error.strerror or error}") from error


def _upload(url: str, store: RunStore) -> None:
    from harness.sweep.staging import upload

    for path in sorted(p for p in store.folder.iterdir() if p.is_file()):
        upload(url, store.run, path.name, path.read_bytes())


def _sum_up(store: RunStore, merged: MergedRun, dispatch: Dispatch, why: str) -> int:
    for line in merged.verdicts.lines():
        print(line)
    for broken in dispatch.broken:
        print(f"failed: {broken}")
    if merged.trouble:
        print(f"records: {merged.trouble}")
    print(f"report:  python -m reports {store.folder}")
    if why:
        print(f"{why}; go on with: python -m harness.sweep --resume {store.run} --results {store.folder.parent}")
        return INTERRUPTED
    failed = any(merged.outcomes.get(outcome) for outcome in BAD)
    return 1 if failed or dispatch.broken else 0


def _budget(options: Sequence[str]) -> float:
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--budget", type=float, default=BUDGET)
    return float(known.parse_known_args(list(options))[0].budget)


def _size(guess: Estimate) -> str:
    return f"~{guess.memory / 1e9:4.1f} GB"
