"""Connecting to a Ray cluster; what its nodes say about themselves."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.errors import RequestError, first_line
from harness.process.hardware import cpu_name, gpu_facts

CONNECT_TIMEOUT = 5.0
SURVEY_TIMEOUT = 180.0
"""Seconds; a node that joins may still have to unpack the working directory."""
LOCAL_STORE = 100 * 1024**2
"""Bytes of object store on one machine: rows are small."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of the cluster and what it has to give."""

    id: str
    host: str
    cpus: float
    gpus: float

    def slots(self, cpus: float, gpus: float) -> int:
        """How many tasks of that size it runs at once."""
        by = [have // need for have, need in ((self.cpus, cpus), (self.gpus, gpus)) if need > 0]
        return int(min(by)) if by else 1


def connect(address: str, *, working_directory: Path | None, environment: Mapping[str, str]) -> None:
    """Join the cluster at ``address``, or start one on this machine (``local``). Raises RequestError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    runtime: dict[str, Any] = {"env_vars": dict(environment)}
    if working_directory is not None:
        runtime["working_dir"] = str(working_directory)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": runtime}
    if address == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        own: dict[str, Any] = {"include_dashboard": False, "num_cpus": cores, "object_store_memory": LOCAL_STORE}
        ray.init(address="local", **own, **quiet)
        return
    _knock(address)
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # refused, half up, or of another version: Ray raises many kinds
        raise RequestError(f"--address {address}: no Ray cluster to join: {first_line(error)}") from None


def _knock(address: str) -> None:
    """Find out soon whether anything listens there: Ray itself asks for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise RequestError(f"--address {address}: expected local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise RequestError(f"--address {address}: nothing answers there: {error}") from None


def nodes() -> list[Node]:
    """The living ones, in an order that is the same on every call."""
    found = []
    for row in ray.nodes():  # type: ignore[no-untyped-call]
        if row["Alive"]:
            have = row.get("Resources", {})
            found.append(
                Node(
                    id=row["NodeID"], host=row["NodeManagerHostname"], cpus=have.get("CPU", 0), gpus=have.get("GPU", 0)
                )
            )
    return sorted(found, key=lambda node: (node.host, node.id))


def check_room(found: Sequence[Node], *, cpus: float, gpus: float) -> None:
    """Raise RequestError where no node could ever take a task of that size."""
    if any(node.slots(cpus, gpus) > 0 for node in found):
        return
    have = ", ".join(f"{n.host}: {n.gpus:g} GPUs and {n.cpus:g} cores" for n in found) or "no node"
    raise RequestError(f"--gpus-per-task {gpus:g} --cpus-per-task {cpus:g}: more than any node has; there are {have}")


def survey(found: Sequence[Node], *, results_url: str, cpus: float, gpus: float) -> list[NodeFacts]:
    """Ask every node that can run tasks for its versions, and whether it can write the results.

    Raises RequestError that lists the nodes which differ, or can't write.
    """
    ask = ray.remote(num_cpus=0, max_retries=1)(node_facts)
    asked = {
        node.host + " " + node.id[:8]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
        ).remote(results_url, gpus > 0)
        for node in found
        if node.slots(cpus, gpus)
    }
    answers = {}
    for name, reference in asked.items():
        try:
            answers[name] = ray.get(reference, timeout=SURVEY_TIMEOUT)
        except Exception as error:  # a node without the harness, or one that doesn't answer
            raise RequestError(f"node {name} can't run tasks: {type(error).__name__}: {_cause(error)}") from None
    wrong = differences(answers)
    if wrong:
        raise RequestError("; ".join(wrong))
    return list(answers.values())


def _cause(error: Exception) -> str:
    cause = getattr(error, "cause", None)
    return first_line(cause if isinstance(cause, BaseException) else error)


MUST_AGREE = ("python", "torch", "torchvision", "timm", "ray")


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """Of one node."""

    host: str
    versions: Mapping[str, str]
    kind: str = ""
    """Name of the device that tasks run on: what has to be the same for two times to be compared."""
    trouble: str = ""
    """Why it can't write the results; empty where it can."""


def node_facts(results_url: str, gpus: bool) -> NodeFacts:
    """Run on the node, of whose GPUs (``gpus``) or processor it tells the name. With a ``results_url`` a file is
    written there, and removed."""
    versions = {"python": platform.python_version()}
    for package in MUST_AGREE[1:]:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    trouble = probe(results_url) if results_url else ""
    kind = gpu_facts("0")[0] if gpus else cpu_name()
    return NodeFacts(host=socket.gethostname(), versions=versions, kind=kind, trouble=trouble)


def probe(url: str) -> str:
    """Why ``url`` can't be written to from here; empty where it can."""
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
        system.makedirs(path, exist_ok=True)
        name = f"{path.rstrip('/')}/.probe-{uuid.uuid4().hex}"
        with system.open(name, "wb") as file:
            file.write(b"\n")
        system.rm_file(name)
    except Exception as error:  # every kind of store has errors of its own
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def differences(answers: Mapping[str, NodeFacts]) -> list[str]:
    """One line for each version in which the nodes differ, and for each node that can't write."""
    found = []
    for package in MUST_AGREE:
        versions = {name: facts.versions.get(package, "missing") for name, facts in answers.items()}
        if len(set(versions.values())) > 1:
            usual = Counter(versions.values()).most_common(1)[0][0]
            odd = ", ".join(f"{name} has {version}" for name, version in versions.items() if version != usual)
            found.append(f"{package} differs between nodes: most have {usual}; {odd}")
    silent = {name: facts.trouble for name, facts in answers.items() if facts.trouble}
    return found + [f"node {name} can't write the results: {trouble}" for name, trouble in silent.items()]
