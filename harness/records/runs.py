"""Finds a run by folder, id, `latest` or URL."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import RunError
from harness.records.codec import NotJsonError, decoded

RECORDS = "records.jsonl"
ENVIRONMENT = "environment.json"


def resolve(run: str | Path, results: Path = Path("results")) -> Path:
    """The folder of a run given as a folder, as the id of a run under ``results``, or as ``latest``.

    Raises RunError naming the runs that are there.
    """
    if run != "latest":
        for candidate in (Path(run), results / str(run)):
            if (candidate / RECORDS).is_file():
                return candidate
    known = sorted(p.parent.name for p in results.glob(f"*/{RECORDS}"))
    if run == "latest" and known:
        return results / known[-1]
    there = f"it has {', '.join(known[-5:])}" if known else "it has no runs"
    raise RunError(f"no run {str(run)!r}: neither a folder with {RECORDS} nor an id under {results}/ ({there})")


class Place:
    """A folder of runs, or one run. fsspec is imported for URLs only."""

    def __init__(self, address: str | Path) -> None:
        """``address`` is a path or a URL; nothing is opened yet."""
        self.address = str(address).rstrip("/") or str(address)
        self.remote = "://" in self.address

    @property
    def name(self) -> str:
        """The last part of the address: a run's id."""
        return PurePosixPath(self.address).name

    def runs(self) -> list[Place]:
        """The runs in this folder, oldest first by id. Raises RunError where it can't be listed."""
        if not self.remote:
            return [Place(str(path.parent)) for path in sorted(Path(self.address).glob(f"*/{RECORDS}"))]
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(self.address)
            found = sorted(files.glob(f"{root}/*/{RECORDS}"))
        except (OSError, ValueError, ImportError) as error:
            raise RunError(f"{self.address}: {error}") from error
        return [Place(f"{self.address}/{PurePosixPath(path).parent.name}") for path in found]

    def read(self, name: str) -> bytes:
        """A file of this run. Raises OSError."""
        if not self.remote:
            return (Path(self.address) / name).read_bytes()
        import fsspec

        files, root = fsspec.core.url_to_fs(self.address)
        content: bytes = files.cat_file(f"{root}/{name}")
        return content

    def environment(self) -> tuple[dict[str, Any], str]:
        """``environment.json`` as a dict, and why it is empty ("" where it was read)."""
        try:
            facts = decoded(self.read(ENVIRONMENT))
        except OSError as error:
            return {}, f"{ENVIRONMENT} can't be read: {error.strerror or error}"
        except NotJsonError as error:
            return {}, f"{ENVIRONMENT} isn't JSON: {error}"
        if not isinstance(facts, dict):
            return {}, f"{ENVIRONMENT} holds a {type(facts).__name__}, not an object"
        return facts, ""


def brought_here(run: str, results: str) -> tuple[str, str]:
    """``run`` and ``results`` as paths on this disk; a run at a URL is first copied to a temporary folder.

    ``run`` is a URL itself, or an id or ``latest`` under the URL ``results``. Raises RunError where there is
    no such run.
    """
    if "://" not in run and "://" not in results:
        return run, results
    if "://" in run:
        place = Place(run)
    else:
        known = Place(results).runs()
        named = known[-1:] if run == "latest" else [place for place in known if place.name == run]
        if not named:
            raise RunError(f"no run {run!r} in {results}")
        place = named[0]
    folder = Path(tempfile.mkdtemp(prefix="run-")) / place.name
    folder.mkdir()
    try:
        (folder / RECORDS).write_bytes(place.read(RECORDS))
    except OSError as error:
        shutil.rmtree(folder.parent)
        raise RunError(f"{place.address}: {error}") from error
    for name in (ENVIRONMENT, "mutants.json"):
        try:
            (folder / name).write_bytes(place.read(name))
        except FileNotFoundError:
            continue
    return str(folder), str(folder.parent)
