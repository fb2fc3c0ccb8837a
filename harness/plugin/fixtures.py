"""The fixtures `session`, `subject`, `published`, `check` and `measure`, and how a check is judged."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.checks.registry import find_check
from harness.errors import first_line
from harness.plugin.isolation import measurer
from harness.plugin.run import RUN, Run
from harness.process.memory_reuse import trim_large_heap, with_room
from harness.subjects.subject import Subject

if TYPE_CHECKING:
    from harness.bench.bench import Bench


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Run:
    """This invocation's request, rows and store."""
    return request.config.stash[RUN]


@pytest.fixture
def subject(request: pytest.FixtureRequest, session: Run) -> Bench:
    """The subject on its bench; models are built once and shared by its tests."""
    return session.bench(request.param)


@pytest.fixture
def published(request: pytest.FixtureRequest, session: Run) -> Bench:
    """A suite's published listing on its bench."""
    return session.bench(request.param)


@pytest.fixture
def check(request: pytest.FixtureRequest) -> str:
    """Name of the check to run, see `judge`."""
    return str(request.param)


@pytest.fixture
def measure(request: pytest.FixtureRequest, session: Run, subject: Bench) -> Callable[..., None]:
    """Measure the subject, interleaved with its references, through `benchmark`.

    Called with the test's ``setting`` (one for each combination of --modes, --batch-size, --dtype and so on), or with a
    mode, ``infer`` or ``train``, and perhaps a ``batch_size``; ``share`` is the part of ``--budget`` for the rounds.
    """
    subject.close()  # conformance's models take memory that the measurement should not see
    if session.request.measurement.isolate:
        return measurer(request, session, subject.subject)
    benchmark = request.getfixturevalue("benchmark")
    from harness.measure.rounds import BudgetError

    measuring = session.measuring(request.config.pluginmanager.get_plugin("terminalreporter"))

    def run(what: str, *, batch_size: int | None = None, share: float = 1.0) -> None:
        __tracebackhide__ = True
        try:
            measuring.measure(
                benchmark,
                subject,
                session.request.setting(what, batch_size),
                test_id=request.node.nodeid,
                flag=session.verdict(subject.subject).not_ranked,
                budget=share * session.request.budget,
            )
        except BudgetError as error:  # a slow or busy machine is no fault of the subject
            pytest.skip(f"not measured: {error}")
        except AssertionError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    return run


def judge(bench: Bench, check: str) -> None:
    """Run a check by name; a broken promise fails the test with its message alone, without a traceback."""
    __tracebackhide__ = True
    bench.notes.clear()
    trim_large_heap()
    try:
        with_room(find_check(check, bench.family), bench)
    except AssertionError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    except (Exception, SystemExit) as error:
        place = _place_in(bench.subject, error)
        if not place:  # a fault of the check: its traceback is wanted
            raise
        raise pytest.fail.Exception(
            f"{bench.who}: {check} was not carried out: {place} raised {type(error).__name__}, {first_line(error)}",
            pytrace=False,
        ) from None


def _place_in(subject: Subject, error: BaseException) -> str:
    """File and line where the subject's own code raised it; empty where other code did."""
    file = getattr(subject.module(), "__file__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
