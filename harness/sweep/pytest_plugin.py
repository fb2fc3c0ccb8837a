"""Loaded into the processes of a sweep: lists collected tests; exits with the parent process."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.records.schema import SPEED

FILE = "CONFORMANCE_LISTING"


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the list."""
    target = os.environ.get(FILE)
    if target:
        rows = [{"options": _options(session.config)}, *(_row(item) for item in session.items)]
        Path(target).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _options(config: pytest.Config) -> list[str]:
    """The command line without what says where the tests are: ids take its place."""
    places = {str(place) for place in config.option.file_or_dir}
    return [str(given) for given in config.invocation_params.args if str(given) not in places]


def _row(item: pytest.Item) -> dict[str, Any]:
    from harness.plugin.report_rows import check_name, subject_of  # `-p` loads this file before the plugin

    subject = subject_of(item)
    row: dict[str, Any] = {"test": item.nodeid, "suite": Path(str(item.path)).parent.name}
    skipped = row["skipped"] = item.get_closest_marker("skip") is not None
    if subject is None:
        return {**row, "subject": "", "architecture": item.path.stem, "check": item.name, "configuration": ""}
    name = check_name(item)
    setting = name.removeprefix(SPEED) if name.startswith(SPEED) else ""
    return {
        **row,
        "suite": subject.family.name,
        "subject": subject.label,
        "architecture": subject.architecture.name,
        "check": name,
        "configuration": "" if skipped else setting,  # a benchmark that is not run needs no process of its own
        "parameters": subject.architecture.parameters,
    }


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
