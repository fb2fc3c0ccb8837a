"""What a node says about itself before the first task, and whether the nodes agree."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from harness.process.hardware import cpu_name, gpu_facts

MUST_AGREE = ("python", "torch", "torchvision", "timm", "ray")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one node."""

    host: str
    versions: Mapping[str, str]
    kind: str = ""
    """Name of the device that tasks run on: what has to be the same for two times to be compared."""
    trouble: str = ""
    """Why it can't write the results; empty where it can."""


def node_facts(results_url: str, gpus: bool) -> Facts:
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
    return Facts(host=socket.gethostname(), versions=versions, kind=kind, trouble=trouble)


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


def differences(answers: Mapping[str, Facts]) -> list[str]:
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
