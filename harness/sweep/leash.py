"""A pytest plugin that ends the process with the worker that started it, so that a dead one leaves nothing behind."""

from __future__ import annotations

import os
import signal
import threading

import pytest

LOOK = 1.0
"""Seconds between looks at the parent."""


def pytest_configure(config: pytest.Config) -> None:
    """Start looking."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="leash", daemon=True).start()


def _watch(parent: int) -> None:
    pause = threading.Event()
    while not pause.wait(LOOK):
        if os.getppid() != parent:
            leads = os.getpgid(0) == os.getpid()
            (os.killpg if leads else os.kill)(os.getpid(), signal.SIGKILL)
