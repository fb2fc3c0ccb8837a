"""Uploads the code, and copies of rows, for the workers."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("harness", "reference", "reports", "suites", "conftest.py", "pyproject.toml")
LEFT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "tests")


def absolute(arguments: Sequence[str]) -> list[str]:
    """The arguments with the files of subjects given in full, for workers that share this disk."""
    return _rewritten(arguments, lambda path, _: str(path))


@contextmanager
def staged(arguments: Sequence[str]) -> Iterator[tuple[Path, list[str]]]:
    """A folder to unpack on the workers, and the arguments as they read in it.

    A subject's file comes with the Python files beside it, which it may import. The harness's own tests stay here.
    """
    with TemporaryDirectory(prefix="conformance-sweep-") as name:
        folder = Path(name)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=LEFT)
            else:
                shutil.copy2(source, folder / part)

        def place(path: Path, number: int) -> str:
            target = folder / "subjects" / str(number)
            target.mkdir(parents=True)
            for neighbour in path.parent.glob("*.py"):
                shutil.copy2(neighbour, target / neighbour.name)
            return str((target / path.name).relative_to(folder))

        yield folder, _rewritten(arguments, place)


def _rewritten(arguments: Sequence[str], place: Callable[[Path, int], str]) -> list[str]:
    written, number, follows = [], 0, False
    for argument in arguments:
        joined = argument.startswith("--subject=")
        given = argument.removeprefix("--subject=") if joined else argument if follows else ""
        path = Path(given).resolve() if given.endswith(".py") else None
        if path is not None and path.is_file():
            number += 1
            argument = ("--subject=" if joined else "") + place(path, number)
        written.append(argument)
        follows = argument == "--subject"
    return written


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
