"""Processes of the suites that are forked from one which has imported the libraries already.

Importing takes longer than many a task. Only for tasks without a GPU: what has touched CUDA can't be forked. The
libraries are imported, the project and the subjects are not: those are read from disk by each process.
multiprocessing's own fork server runs its caller's main module in every process, here an engine's.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torch._dynamo", "torchvision", "timm", "hypothesis", "scipy.stats", "pandas", "pytest")
IMPORTED = "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning"
"""pytest rewrites the assertions of plugins as they are imported; those of libraries have none to rewrite."""
LOOK = 0.1
"""Seconds between looks at the process and at whoever started the server."""


class Forked:
    """A process of a `Server`, with what `subprocess.Popen` would offer."""

    def __init__(self, pid: int, replies: int) -> None:
        self.pid = pid
        self._replies = replies
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._code if self._code is not None else self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when there is one. Raises subprocess.TimeoutExpired."""
        code = self._code if self._code is not None else self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("pytest", timeout or 0.0)
        return code

    def _look(self, timeout: float | None) -> int | None:
        ready, _, _ = select.select([self._replies], [], [], timeout)
        if ready:
            line = _line(self._replies)
            self._code = int(line) if line else -signal.SIGKILL  # a dead server: its processes die with it
        return self._code


class Server:
    """Imports `LIBRARIES` in ``directory`` under ``environment``, and forks one process after the other.

    It ends, and what it has forked, when this object is closed or this process dies.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._replies, theirs = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.process.fork_server", str(theirs)],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs],
        )
        os.close(theirs)

    def start(self, arguments: Sequence[str], output: Path) -> Forked:
        """Run pytest with ``arguments``, what it prints into ``output``. Raises OSError where the server is dead."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([list(arguments), str(output)]).encode() + b"\n")
        self._process.stdin.flush()
        pid = _line(self._replies)
        if not pid:
            raise BrokenPipeError(f"the process that forks others ended with code {self._process.wait()}")
        return Forked(int(pid), self._replies)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        os.close(self._replies)


_kept: dict[str, Any] = {}


def start(arguments: Sequence[str], output: Path, directory: Path, environment: Mapping[str, str]) -> Forked:
    """Run pytest from the server for these circumstances, which is kept for the next time.

    Raises OSError where none can be started.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    key = (str(directory), cores, sorted(environment.items()))
    for _ in range(2):
        if _kept.get("key") != key:
            stop()
            _kept.update(key=key, server=Server(directory, {**os.environ, **environment}))
        try:
            started: Forked = _kept["server"].start(arguments, output)
        except OSError:  # it has died since; a new one may live
            stop()
        else:
            return started
    raise BrokenPipeError("no process to fork from could be started")


def stop() -> None:
    """End the server that is kept, if there is one."""
    server = _kept.pop("server", None)
    _kept.clear()
    if server is not None:
        server.close()


def _line(handle: int) -> str:
    """The next line without its end; empty where the other side is gone."""
    read = b""
    while not read.endswith(b"\n"):
        byte = os.read(handle, 1)
        if not byte:
            return ""
        read += byte
    return read.decode().strip()


def _serve(commands: int, replies: int) -> None:
    while line := _line(commands):
        arguments, output = json.loads(line)
        pid = os.fork()
        if not pid:
            os.close(replies)
            _become(arguments, output)
        _lead(pid)
        os.write(replies, f"{pid}\n".encode())
        os.write(replies, f"{_awaited(pid, commands)}\n".encode())


def _lead(pid: int) -> None:
    """Give a process a group of its own; done on both sides, so that neither goes on without it."""
    with suppress(OSError):  # the other side was first
        os.setpgid(pid, pid)


def _awaited(pid: int, commands: int) -> int:
    """The exit code of a process; it is ended where nobody waits for it any more."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        abandoned, _, _ = select.select([commands], [], [], LOOK)
        if abandoned:  # nothing is sent while a process runs: the other side is gone
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise SystemExit(1)


def _become(arguments: Sequence[str], output: str) -> None:
    """In the new process: pytest, in a group of its own. Does not return."""
    _lead(0)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(source, target)
    import pytest

    sys.argv = ["pytest", "-W", IMPORTED, *arguments]
    raise SystemExit(pytest.main())


if __name__ == "__main__":
    for name in LIBRARIES:
        with suppress(ImportError):  # the tasks that need it will say so
            import_module(name)
    _serve(0, int(sys.argv[1]))
