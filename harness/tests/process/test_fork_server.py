"""A process to fork from, and what becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.process import fork_server

ROOT = Path(__file__).resolve().parents[3]
TESTS = "import time\n\n\ndef test_passes(): ...\n\n\ndef test_hangs():\n    time.sleep(600)\n"


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    fork_server.stop()


def test_nothing_outlives_who_started_it(tmp_path: Path) -> None:
    """Who is killed takes the server along, and what that has forked."""
    program = (
        "import sys; from pathlib import Path; from harness.process import fork_server\n"
        "started = fork_server.start([sys.argv[1]], Path(sys.argv[2]), Path.cwd(), {})\n"
        "print(started.pid, flush=True)\nstarted.wait()"
    )
    (tmp_path / "test_task.py").write_text(TESTS)
    command = [sys.executable, "-c", program, f"{tmp_path / 'test_task.py'}::test_hangs", str(tmp_path / "output")]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    forked = int(worker.stdout.readline())
    os.kill(forked, 0)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    end = time.monotonic() + 60
    while time.monotonic() < end and _alive(forked):
        time.sleep(0.1)
    assert not _alive(forked)


def test_a_dead_server_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "test_task.py").write_text(TESTS)
    given = ["-c", "/dev/null", "test_task.py::test_passes"]
    output = tmp_path / "output"
    assert fork_server.start(given, output, tmp_path, {}).wait() == 0, output.read_text()
    fork_server._kept["server"]._process.kill()
    fork_server._kept["server"]._process.wait()
    assert fork_server.start(given, output, tmp_path, {}).wait() == 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
