"""A copy of each task's rows at the results URL, written by the worker itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable


def shard_name(key: str) -> str:
    """A file name that is safe everywhere and unique for a task."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", key)[:120]
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.jsonl"


def write_shard(url: str, run: str, key: str, lines: Iterable[str]) -> None:
    """Write the rows of a task to ``<url>/<run>/shards/``. Raises what the store raises."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    folder = f"{path.rstrip('/')}/{run}/shards"
    system.makedirs(folder, exist_ok=True)
    with system.open(f"{folder}/{shard_name(key)}", "wb") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def upload(url: str, run: str, name: str, content: bytes) -> None:
    """Write a file of the run to ``<url>/<run>/``."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    folder = f"{path.rstrip('/')}/{run}"
    system.makedirs(folder, exist_ok=True)
    with system.open(f"{folder}/{name}", "wb") as file:
        file.write(content)
